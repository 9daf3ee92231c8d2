"""Does a generating model still write the same?"""
