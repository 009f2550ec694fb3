"""The machine: its cores, its memory allocator, what it is and how long it takes."""
