"""Which whole channels and neurons go, and what does their removal change elsewhere?"""
