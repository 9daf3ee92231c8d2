"""How is each comparison asserted: measured, judged, recorded, and failed with the evidence?

Subjects come by position, what was made before what it is compared with, as in `torch.testing.assert_close(actual,
expected)`; requirements come by keyword. An assertion without any requirement is refused. Every `assert_*` returns
its `Check`; its twin `check_*` takes the same arguments and returns the check whether it passed or not.

With `confidence=` (in [0.5, 1)) a requirement is a claim about the population that the data was drawn from; a claim
that the data neither proves nor refutes is *inconclusive*, which fails, and the message says how many more examples
would decide it. Without it, the values on the given data are compared with their bounds.
"""
