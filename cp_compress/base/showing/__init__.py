"""How are results shown to a person: numbers, tables, and objects in one line?"""
