"""The benchmarks."""



# The paper's seven benchmarks, in the order of its tables.
TASKS = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
