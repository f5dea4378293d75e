"""What is counted, and how it is told.

Law: it changes nothing that it counts, and it knows neither FUSE nor the loop.
"""
