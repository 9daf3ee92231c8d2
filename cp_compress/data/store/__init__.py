"""How is a data set stored compressed in files that many processes write and read?"""
