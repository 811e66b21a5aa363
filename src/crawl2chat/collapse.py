"""An RL training that has degenerated is stopped, with what is wrong with it and what helps."""

from transformers import TrainerCallback

from crawl2chat.stage import StageError


class StopsWhenCollapsed(TrainerCallback):
    """Ends a training that has degenerated, with what is wrong and what helps; its last checkpoint stays.

    Looked at are all logged rows of the last `num_steps` steps, so that a run that is started again sees the same.
    """

    def __init__(self, num_steps: int):
        self.num_steps = num_steps

    def on_log(self, args, state, control, **kwargs):
        rows = [
            row for row in state.log_history if "reward" in row and row["step"] > state.global_step - self.num_steps
        ]
        if self.num_steps and rows and state.global_step >= self.num_steps and (diagnosis := collapse(args, rows)):
            raise StageError(f"after {state.global_step} steps the training has collapsed: {diagnosis}")


def collapse(args, rows: list[dict]) -> str:
    """What is wrong with all of the logged rows, or nothing."""
    lengths = [row["completions/mean_length"] for row in rows]
    in_groups = args.num_generations > 1
    all_alike = in_groups and all(row["frac_reward_zero_std"] == 1 for row in rows)
    if all(row["completions/clipped_ratio"] > 0.95 for row in rows):
        return (
            f"completions run to the limit of {args.max_completion_length} tokens and never end; raise "
            "`max_completion_length`, or name a reward that is less near it, as crawl2chat.rewards.correct_in_time."
        )
    if max(lengths) < 1.5:
        return "completions are empty; look for a reward that is best for saying nothing, or raise `beta`."
    if all_alike and max(abs(row["reward"]) for row in rows) == 0:
        return (
            "no completion got a reward, so there is nothing to learn from; begin with easier prompts "
            "(data_processing/9_filter_prompts.py), or check that the reward can be met."
        )
    if all_alike and max(row["entropy"] for row in rows) < 0.005:
        return (
            f"all completions of a prompt are alike (entropy {rows[-1]['entropy']:.4f}); take harder prompts, a lower "
            "`learning_rate`, a higher `temperature` or an `entropy_coef`."
        )
    return ""
