"""What does the model see at once, and how do its answers become a field?"""
