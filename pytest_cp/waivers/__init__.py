"""Which deviations are known, who answers for them, and until when?"""
