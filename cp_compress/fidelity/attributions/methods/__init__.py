"""Which ways are there to ask a model which parts of an input its answer rests on?

One file a family. A method is a frozen dataclass that brings all that belongs to it: its fields, what it needs of a
model, what it draws at random, and its maps (`method.AttributionMethod`). `known` finds those of this
folder by itself, and `declared` reads their fields without loading torch.
"""
