"""From a scored search to one selection: what the data says beside the scores, and the decision under a budget."""
