"""Where bytes are: folders on a disk or in an object store, behind one URL."""
