"""Protocols: who is learnt from, chosen on and tested, over folds and corpora."""
