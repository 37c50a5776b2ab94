"""What overlaps this place and this time?"""
