"""Which whole channels and neurons are removed, and what does their removal change elsewhere?"""
