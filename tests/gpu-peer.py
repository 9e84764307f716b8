#!/usr/bin/env python3
"""The work of `hybrid bench` in PyTorch, so that both can be measured on one machine in one go.

A decoder as open_lm has it: layer norms, rotary positions, causal attention, SwiGLU. `train` measures a step with AdamW under
autocast, `generate` draws tokens with cached keys and values. Prints one JSON object; where this PyTorch cannot do what is
asked, the object has "missing" with the reason and the exit code is 3. PyTorch 1.13 and later will do.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional

# Width, layers, heads, rows of the table, positions, batch: the sizes of `hybrid bench`.
SIZES = {
    "tiny": (128, 4, 4, 1024, 96, 32),
    "small": (256, 6, 8, 2567, 96, 32),
    "160m": (768, 12, 12, 66823, 1152, 8),
    "1b": (2048, 24, 16, 66823, 1152, 8),
}

WARM_UP = 3
PROMPT = 16
TOP_K = 100


class Missing(Exception):
    """This PyTorch cannot do what is asked."""


class Norm(nn.Module):
    """A layer norm with gains and without biases."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight)


def rotate(heads, cosine, sine):
    """Turns halves of each head by its position's angle."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine


def attend(queries, keys, values, causal):
    """softmax(q kᵀ / √C) v over [batch, heads, positions, C]."""
    if hasattr(functional, "scaled_dot_product_attention"):
        return functional.scaled_dot_product_attention(queries, keys, values, is_causal=causal)
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(dim=-1) @ values


class Cache:
    """Keys and values of the positions so far, in memory that is there from the start."""

    def __init__(self, batch, heads, positions, width, dtype, device):
        shape = (batch, heads, positions, width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def grow(self, start, keys, values):
        end = start + keys.shape[2]
        self.keys[:, :, start:end] = keys
        self.values[:, :, start:end] = values
        return self.keys[:, :, :end], self.values[:, :, :end]


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        hidden = 256 * ((int(8 * width / 3) + 255) // 256)
        self.heads = heads
        self.attention_norm, self.feed_norm = Norm(width), Norm(width)
        self.joined = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_and_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cosine, sine, cache=None, start=0):
        batch, positions, width = x.shape
        joined = self.joined(self.attention_norm(x)).view(batch, positions, 3, self.heads, width // self.heads)
        queries, keys, values = joined.permute(2, 0, 3, 1, 4)
        cosine, sine = cosine.to(values.dtype), sine.to(values.dtype)
        queries, keys = rotate(queries, cosine, sine), rotate(keys, cosine, sine)
        if cache is not None:
            keys, values = cache.grow(start, keys, values)
        mixed = attend(queries, keys, values, causal=positions > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, positions, width))
        gate, up = self.gate_and_up(self.feed_norm(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, width, layers, heads, rows, positions):
        super().__init__()
        self.table = nn.Embedding(rows, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = Norm(width)
        self.head = nn.Linear(width, rows, bias=False)
        pairs = torch.arange(0, width // heads, 2).float() / (width // heads)
        angles = torch.outer(torch.arange(positions).float(), 10000.0**-pairs)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens, caches=None, start=0, last_only=False):
        x = self.table(tokens)
        end = start + tokens.shape[1]
        cosine, sine = self.cosine[start:end], self.sine[start:end]
        for layer, block in enumerate(self.blocks):
            x = block(x, cosine, sine, None if caches is None else caches[layer], start)
        return self.head(self.norm(x[:, -1:] if last_only else x))


def synchronise(device):
    if device == "cuda":
        torch.cuda.synchronize()


def optimizer_of(model, device):
    """AdamW, fused where this PyTorch can; and whether it is."""
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        # Some versions refuse a device only when they step.
        if device == "cpu" and not hasattr(torch, "_fused_adamw_"):
            raise RuntimeError("no fused AdamW for CPUs")
        return optimizer, True
    except (RuntimeError, TypeError):
        return torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1), False


def train(model, options, rows, positions):
    if options.compile and not hasattr(torch, "compile"):
        raise Missing(f"PyTorch {torch.__version__} has no torch.compile")
    forward = torch.compile(model) if options.compile else model
    optimizer, fused = optimizer_of(model, options.device)
    # One token more than positions: the last is only a target.
    tokens = torch.randint(0, rows, (options.batch, positions + 1), device=options.device)
    seconds = []
    for _ in range(WARM_UP + options.steps):
        synchronise(options.device)
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(options.device, dtype=torch.bfloat16, enabled=options.dtype == "bf16"):
            logits = forward(tokens[:, :-1])
        loss = functional.cross_entropy(logits.float().view(-1, rows), tokens[:, 1:].reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        synchronise(options.device)
        seconds.append(time.perf_counter() - begun)
    step = statistics.median(seconds[WARM_UP:])
    return {
        "tokens_per_second": options.batch * positions / step,
        "step_seconds": step,
        "fused_adamw": fused,
        "loss": loss.item(),
    }


@torch.no_grad()
def generate(model, options, rows, positions):
    model.eval()
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    if dtype == torch.bfloat16:
        cosine, sine = model.cosine, model.sine
        model.to(dtype)
        model.cosine, model.sine = cosine, sine
    first = model.blocks[0]
    width = model.table.weight.shape[1] // first.heads
    new = min(options.new, positions - PROMPT)
    seconds = 0.0
    # The first round warms up.
    for _ in range(2):
        caches = [Cache(options.batch, first.heads, PROMPT + new, width, dtype, options.device) for _ in model.blocks]
        tokens, start = torch.randint(0, rows, (options.batch, PROMPT), device=options.device), 0
        synchronise(options.device)
        begun = time.perf_counter()
        for _ in range(new):
            logits = model(tokens, caches, start, last_only=True)[:, -1].float()
            start += tokens.shape[1]
            best, ids = logits.topk(min(TOP_K, rows))
            tokens = ids.gather(1, torch.multinomial(best.softmax(-1), 1))
        synchronise(options.device)
        seconds = time.perf_counter() - begun
    return {"tokens_per_second": options.batch * new / seconds, "milliseconds_per_step": 1000 * seconds / new, "new": new}


def matrix_peak(options):
    """Floating-point operations a second of square matrix products, the best of several."""
    side = 8192 if options.device == "cuda" else 2048
    dtype = torch.bfloat16 if options.dtype == "bf16" else torch.float32
    a, b = (torch.rand(side, side, device=options.device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronise(options.device)
        begun = time.perf_counter()
        a @ b
        synchronise(options.device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best


def read_options():
    parser = argparse.ArgumentParser(description="The work of `hybrid bench` in PyTorch. Prints one JSON object.")
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--batch", type=int, help="sequences (default: the size's own)")
    parser.add_argument("--steps", type=int, default=8, help="steps of training that are measured")
    parser.add_argument("--new", type=int, default=256, help="tokens that are drawn")
    parser.add_argument("--compile", action="store_true", help="train a model that torch.compile has compiled")
    return parser.parse_args()


def main():
    options = read_options()
    width, layers, heads, rows, positions, batch = SIZES[options.size]
    options.batch = options.batch or batch
    result = {
        "what": options.what,
        "size": options.size,
        "device": options.device,
        "dtype": options.dtype,
        "batch": options.batch,
        "positions": positions,
        "compile": options.compile,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise Missing(f"PyTorch {torch.__version__} reaches no GPU")
        torch.manual_seed(0)
        model = Decoder(width, layers, heads, rows, positions).to(options.device)
        result["parameters"] = sum(parameter.numel() for parameter in model.parameters())
        work = train if options.what == "train" else generate
        result.update(work(model, options, rows, positions))
        if options.device == "cuda":
            result["gpu_memory_bytes"] = torch.cuda.max_memory_reserved()
        result["matrix_peak_flops"] = matrix_peak(options)
    except Missing as missing:
        result["missing"] = str(missing)
        print(json.dumps(result))
        return 3
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
