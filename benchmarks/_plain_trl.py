"""Training by plain TRL, as its documentation has it: conversations in, trainer, adapter out. No taolake.

    python _plain_trl.py ASKED.json OUTPUT_FOLDER

`ASKED.json` holds the base's folder, the rows, the algorithm, and the keyword arguments of TRL's config.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """Train, save the adapter, and write down seconds of the loop and the losses."""
    asked, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    tokenizer: Any = AutoTokenizer.from_pretrained(asked["base"])
    adapter = LoraConfig(**asked["lora"], target_modules="all-linear", task_type="CAUSAL_LM")
    rows = Dataset.from_list(asked["rows"])
    given = {**asked["arguments"], "output_dir": str(out / "work")}
    set_seed(given["seed"])
    model = AutoModelForCausalLM.from_pretrained(asked["base"], dtype="float32")
    if asked["algorithm"] == "rft":
        from trl import SFTConfig, SFTTrainer

        config: Any = SFTConfig(**given, completion_only_loss=True)
        kind: Any = SFTTrainer
    else:
        from trl import DPOConfig, DPOTrainer

        config, kind = DPOConfig(**given), DPOTrainer
    trainer = kind(model, args=config, train_dataset=rows, processing_class=tokenizer, peft_config=adapter)
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    trainer.save_model(str(out / "adapter"))
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tenth = max(1, len(losses) // 10)
    seen = {
        "seconds": seconds,
        "loss_first": sum(losses[:tenth]) / tenth,
        "loss_last": sum(losses[-tenth:]) / tenth,
        "steps": trainer.state.global_step,
    }
    (out / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
