"""What do codecs compute in machine code, on a CPU that numba compiles for?"""
