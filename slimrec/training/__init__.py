"""How weights are learnt: one loop, on one process or many, resumed to the bit."""
