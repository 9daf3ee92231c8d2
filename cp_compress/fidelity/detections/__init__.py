"""Does a detector still find the same objects?"""
