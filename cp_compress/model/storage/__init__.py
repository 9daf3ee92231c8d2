"""How is a compressed model written to a file and read again, and how large is that file?"""
