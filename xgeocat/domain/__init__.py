"""Which pieces do I work through?"""
