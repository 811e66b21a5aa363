"""Proximal policy optimization with a value model (https://arxiv.org/abs/1707.06347), on top of TRL's GRPOTrainer.

TRL dropped its PPOTrainer in 1.13. GRPOTrainer draws the completions, scores them and has the clipped loss; what PPO adds
is here: a value of every token, advantages by GAE (https://arxiv.org/abs/1506.02438), the KL divergence to the reference as
a part of the reward (https://arxiv.org/abs/1909.08593), and the value model's own loss.

It departs from InstructGPT's PPO (https://arxiv.org/abs/2203.02155) in that there is no pretraining loss, and from TRL's
last PPOTrainer in that the KL divergence of every token is log pi(a) - log pi_ref(a) without a choice of estimators, that
returns are not whitened, and that policy and value model have learning rates of their own in one optimizer.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaForTokenClassification, Qwen3ForTokenClassification
from transformers.integrations import is_deepspeed_zero3_enabled
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import add_hooks, remove_hooks

from crawl2chat.advantages import adapted, gae, value_losses
from crawl2chat.packed import is_packable, pack, read
from crawl2chat.rollouts import FastRollouts
from crawl2chat.stage import StageError, bounded

VALUE_MODEL = "value_model"  # the policy's attribute, and the folder beside its weights
VALUE_FILE = "value_model.safetensors"  # of a checkpoint of adapters: what is trained of the value model


@dataclass
class PPOConfig(GRPOConfig):
    """Arguments of GRPOTrainer and of what PPO adds. `beta` weighs the KL divergence in the reward, not in the loss.

    `steps_per_generation` is the number of mini-batches of a rollout, `num_iterations` how often each is gone through.
    """

    num_generations: int = bounded(1, "Completions of one prompt; PPO needs no group.", low=1)
    beta: float = field(default=0.05, metadata={"help": "Weight of the KL divergence to the reference in the reward."})
    kl_target: float | None = field(
        default=None, metadata={"help": "KL divergence of a completion towards which `beta` is adapted; null: fixed."}
    )
    kl_horizon: int = bounded(10_000, "Completions in which the adaptation of `beta` acts.", low=1)
    gamma: float = bounded(1.0, "Discount of later rewards.", low=0.0, high=1.0)
    lam: float = bounded(0.95, "Lambda of GAE: 1 trusts the rewards alone, 0 the values.", low=0.0, high=1.0)
    value_learning_rate: float = bounded(1e-4, "Of the value model.", low=0.0)
    value_warmup_steps: int = bounded(0, "Steps in which the value model alone learns.", low=0)
    vf_coef: float = bounded(0.1, "Weight of the value loss.", low=0.0)
    cliprange_value: float = bounded(0.2, "How far a value may move from the one at the rollout.", low=0.0)
    whiten_advantages: bool = field(default=True, metadata={"help": "To mean 0 and variance 1 over a rollout."})
    missing_eos_penalty: float = bounded(0.0, "Taken from the score of a completion that was cut off.", low=0.0)

    def __post_init__(self):
        self.ddp_find_unused_parameters = False  # the value model's are used, but not in the policy's forward pass
        if self.num_generations != 1:
            return super().__post_init__()
        # GRPO asks for a group of two at least. Nothing below uses the groups but the sampler of prompts.
        self.num_generations = self.num_generations_eval = self.per_device_train_batch_size
        if self.num_generations == 1:
            raise ValueError("`per_device_train_batch_size` 1 is too small for PPO; give 2 or more.")
        super().__post_init__()
        self.num_generations = self.num_generations_eval = 1


class PPOTrainer(FastRollouts, GRPOTrainer):
    """PPO. Takes what GRPOTrainer takes, and a value model.

    The value model is an attribute of the policy, so that one optimizer, one DDP or ZeRO engine and one checkpoint hold
    both.

    With `peft_config` policy and value model are each trained by an adapter, the value model's head as a whole; the policy
    without its adapter is the reference.

    Args:
        value_model: a model for token classification with one label and the policy's vocabulary. Its output at a token is
            the value of the state after it.
    """

    def __init__(self, *args, value_model: nn.Module, peft_config: LoraConfig | None = None, **kwargs):
        super().__init__(*args, peft_config=peft_config, **kwargs)
        rows = [model.get_input_embeddings().num_embeddings for model in (self.model, value_model)]
        if rows[0] != rows[1]:
            raise StageError(
                f"the value model's embedding has {rows[1]} rows and the policy's {rows[0]}; start it from a model with "
                "the policy's tokenizer."
            )
        if self.args.gradient_checkpointing:
            value_model.gradient_checkpointing_enable(self.args.gradient_checkpointing_kwargs)
        if peft_config:
            head = {"exclude_modules": ["score"], "modules_to_save": ["score"]}
            value_model = get_peft_model(
                value_model, LoraConfig(**{**peft_config.to_dict(), "task_type": None, **head})
            )
        self.model.value_model = value_model.to(self.model.device)

    # --- rollout

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict[str, Tensor]:
        with self._without_value_model():  # generation, and vLLM that is given the weights, know the policy alone
            batch = super()._generate_and_score_completions(inputs)
        ids, attention_mask, mask = self._of(batch)
        size = self.args.per_device_train_batch_size
        with torch.no_grad():
            if "old_per_token_logps" not in batch:
                batch["old_per_token_logps"], _, _ = self._get_per_token_logps_and_entropies(
                    self.model, ids, attention_mask, mask.shape[1], size
                )
            parts = zip(ids.split(size), attention_mask.split(size))
            values = torch.cat([self._values(self.model, *part, mask.shape[1]) for part in parts])

        kl = torch.zeros_like(values)  # of each token
        if self.beta:
            kl = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]) * mask
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)  # that the model wrote
        last_ids = batch["completion_ids"].gather(1, last[:, None])[:, 0]
        ended = torch.isin(last_ids, torch.tensor(self.eos_token_ids, device=last_ids.device))
        scores = self._scores - self.args.missing_eos_penalty * (~ended)
        rewards = -self.beta * kl
        rewards[torch.arange(len(rewards), device=rewards.device), last] += scores
        advantages, returns = gae(rewards, values, mask, self.args.gamma, self.args.lam)
        batch |= {"advantages": advantages, "returns": returns, "old_values": values * mask}
        if self.args.whiten_advantages:
            batch["advantages"] = self._whitened(advantages, mask)

        log = self._metrics["train" if self.model.training else "eval"]
        for name, found in {
            "objective/kl": kl.sum(1),
            "objective/entropy": -(batch["old_per_token_logps"] * mask).sum(1),
            "objective/non_score_reward": -self.beta * kl.sum(1),
            "objective/rlhf_reward": scores - self.beta * kl.sum(1),
            "objective/scores": scores,
        }.items():
            log[name].append(self.accelerator.gather(found.float()).mean().item())
        spread = self._variance(returns, mask)
        if spread > 1e-8:  # in returns that are all alike there is nothing to explain
            log["val/explained_variance"].append(1 - (self._variance(returns - values, mask) / spread).item())
        log["objective/beta"].append(self.beta)
        if self.args.kl_target and self.model.training:
            num_completions = len(mask) * self.accelerator.num_processes
            self.beta = adapted(
                self.beta, log["objective/kl"][-1], self.args.kl_target, num_completions, self.args.kl_horizon
            )
        return batch

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list) -> Tensor:
        """As GRPO's, for all processes; keeps the weighted sum of this one's as scores."""
        found = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)  # (B of all, rewards)
        first = self.accelerator.process_index * len(prompts)
        mine = found[first : first + len(prompts)]
        for row, name in (~mine.isfinite()).nonzero().tolist():
            raise StageError(
                f"the reward {self.reward_func_names[name]} of a completion at step {self.state.global_step} is "
                f"{mine[row, name].item()}: {str(completions[row])[:200]}; PPO needs a number for each."
            )
        self._scores = (mine * self.reward_weights.to(mine.device)).sum(1)
        return found

    def _of(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids and attention mask of prompt and completion, (B, P + T), and the mask of the completion, (B, T)."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention_mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)  # what a tool said is no action
        return ids, attention_mask, mask

    def _values(self, model: nn.Module, ids: Tensor, attention_mask: Tensor, num_completion_tokens: int) -> Tensor:
        """The value before each token of the completions, (B, T)."""
        value_model = self.accelerator.unwrap_model(model).value_model
        if is_packable(value_model, (Qwen3ForTokenClassification, LlamaForTokenClassification)):
            packed = pack(ids, attention_mask, num_completion_tokens)
            with self.accelerator.autocast():
                values = read(value_model, packed).logits[0, packed.num_shared :, 0]
            return packed.padded(values.float())
        with self.accelerator.autocast():
            values = value_model(input_ids=ids, attention_mask=attention_mask).logits[..., 0]
        return values[:, -num_completion_tokens - 1 : -1].float()

    def _whitened(self, advantages: Tensor, mask: Tensor) -> Tensor:
        """To mean 0 and variance 1 over the tokens of all processes."""
        mean = self._mean(advantages, mask)
        return (advantages - mean) * (self._variance(advantages, mask) + 1e-8).rsqrt() * mask

    def _variance(self, x: Tensor, mask: Tensor) -> Tensor:
        return self._mean((x - self._mean(x, mask)).square(), mask)

    def _mean(self, x: Tensor, mask: Tensor) -> Tensor:
        total, count = self.accelerator.reduce(torch.stack([(x * mask).sum(), mask.sum().float()]), "sum")
        return total / count.clamp(min=1)

    @contextmanager
    def _without_value_model(self) -> Iterator[None]:
        modules = self.accelerator.unwrap_model(self.model)._modules
        value_model = modules.pop(VALUE_MODEL)
        try:
            yield
        finally:
            modules[VALUE_MODEL] = value_model
            if is_deepspeed_zero3_enabled():  # TRL took the hooks of all to generate, and put back those of the policy
                remove_hooks(self.model_wrapped)
                add_hooks(self.model_wrapped)

    # --- update

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        beta, self.beta = self.beta, 0.0  # its KL divergence is in the rewards
        try:
            policy_loss = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        ids, attention_mask, mask = self._of(inputs)
        values = self._values(model, ids, attention_mask, mask.shape[1])
        losses, clipped = value_losses(values, inputs["old_values"], inputs["returns"], self.args.cliprange_value)
        training = self.model.training
        accumulation = self.current_gradient_accumulation_steps if training else 1
        # As with the policy's tokens: each counts the same, in whatever part of a step it comes.
        normalizer = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if training:
            normalizer = normalizer * accumulation / self.args.steps_per_generation
        value_loss = (losses * mask).sum() / normalizer

        log = self._metrics["train" if training else "eval"]
        log_ratio = (self._logps - inputs["old_per_token_logps"]) * mask
        ratio = log_ratio.exp()
        low, high = 1 - self.epsilon_low, 1 + self.epsilon_high
        limited = ((ratio < low) & (inputs["advantages"] < 0)) | ((ratio > high) & (inputs["advantages"] > 0))
        for name, found in {
            "policy/approxkl_avg": ratio - 1 - log_ratio,
            "policy/clipfrac_avg": limited.float(),
            "loss/policy_avg": -torch.min(ratio * inputs["advantages"], ratio.clamp(low, high) * inputs["advantages"]),
            "loss/value_avg": losses.detach(),
            "val/clipfrac_avg": clipped.float(),
            "val/ratio": ratio,
        }.items():
            log[name].append(self._mean(found, mask).item())
        return policy_loss + self.args.vf_coef * value_loss

    def _get_per_token_logps_and_entropies(self, *args, **kwargs):
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._logps = found[0].detach()
        return found

    # --- optimizer and checkpoints

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Policy and value model each with its learning rate, each with and without weight decay."""
        if self.optimizer is None:
            model = self.model if model is None else model
            decayed = set(self.get_decay_parameter_names(model))
            named = [(name, weights) for name, weights in model.named_parameters() if weights.requires_grad]
            optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            groups = [
                {
                    "params": [p for name, p in named if is_value(name) == of_value and (name in decayed) == decay],
                    "weight_decay": self.args.weight_decay if decay else 0.0,
                    "lr": self.args.value_learning_rate if of_value else self.args.learning_rate,
                    "of_value": of_value,  # the group says it, as ZeRO-3 takes its parameters away
                }
                for of_value in (False, True)
                for decay in (True, False)
            ]
            self.optimizer = optimizer_class([group for group in groups if group["params"]], **options)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """The policy's learning rate is 0 while the value model warms up."""
        is_new = self.lr_scheduler is None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if is_new and self.args.value_warmup_steps:
            for i, group in enumerate(scheduler.optimizer.param_groups):
                if not group["of_value"]:
                    scheduler.lr_lambdas[i] = self._after_warmup(scheduler.lr_lambdas[i])
                    group["lr"] = 0.0
        return scheduler

    def _after_warmup(self, share):
        return lambda step: 0.0 if step < self.args.value_warmup_steps else share(step)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.args.should_save:
            Path(output_dir, "beta.json").write_text(json.dumps({"beta": self.beta}))

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.beta = json.loads(Path(checkpoint, "beta.json").read_text())["beta"]

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Of adapters, peft would save the policy's alone; what is trained of the value model gets a file of its own."""
        if not isinstance(self.accelerator.unwrap_model(self.model), PeftModel):
            return super()._save(output_dir, state_dict)
        weights = self.model.state_dict() if state_dict is None else state_dict
        trained = {name for name, weight in self.model.named_parameters() if weight.requires_grad and is_value(name)}
        policy = {name: weight for name, weight in weights.items() if not is_value(name)}
        with self._without_value_model():
            super()._save(output_dir, policy)
        values = {name: weights[name].detach().cpu().contiguous() for name in trained}
        save_file(values, Path(output_dir or self.args.output_dir, VALUE_FILE), {"format": "pt"})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model if model is None else model)
        if not isinstance(model, PeftModel):
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        with self._without_value_model():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        model.load_state_dict(load_file(Path(resume_from_checkpoint, VALUE_FILE)), strict=False)

    def save_value_model(self, folder: str | Path) -> None:
        """The value model as a folder of its own. Called on every process, as each may hold a part."""
        weights = self.accelerator.get_state_dict(self.model_wrapped)
        if self.is_world_process_zero():
            value_model = self.accelerator.unwrap_model(self.model).value_model
            if isinstance(value_model, PeftModel):
                return value_model.merge_and_unload().save_pretrained(folder)
            mine = {
                name.rpartition(f"{VALUE_MODEL}.")[2]: tensor for name, tensor in weights.items() if is_value(name)
            }
            value_model.save_pretrained(folder, state_dict=mine)

    @staticmethod
    def drop_value_model(weights: dict[str, Tensor]) -> None:
        """Leaves the policy in a state that holds both."""
        for name in [name for name in weights if is_value(name)]:
            del weights[name]


def is_value(name: str) -> bool:
    """Whether a parameter of the policy belongs to its value model."""
    return f".{name}".find(f".{VALUE_MODEL}.") >= 0
