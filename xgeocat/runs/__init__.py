"""Do it for ten thousand scenes."""
