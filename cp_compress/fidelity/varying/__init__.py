"""Which part of its examples does a comparison move or explain, while all else stays as it is?"""
