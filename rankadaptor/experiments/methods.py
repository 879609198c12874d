"""Names of the methods that tables compare."""



DENSE = "Dense"
NO_RECOVERY = "No recovery"
LORA = "LoRA"
LORA_STAR = "LoRA*"
ADALORA = "AdaLoRA"
OWN = "own allocation"
RANKADAPTOR = "RankAdaptor (one model)"
RANKADAPTOR_PER_TASK = "RankAdaptor (per task)"
MIRROR = "mirror of LoRA*"
SHUFFLED = ("LoRA* shuffled (1)", "LoRA* shuffled (2)")
DAMAGE = "ranks by pruning damage"
EVA = "EVA"
BEST_SEED = "LoRA, best of its seeds"
TUNED = "LoRA, tuned rate"
