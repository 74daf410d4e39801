"""From a trained network to label maps on the input's grid."""
