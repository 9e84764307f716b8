/// Models as transformers computes them, from tensors under transformers' own names, in double precision and with plain loops:
/// what reading, naming and computing are held against together.
module Hybrid.Tests.FamilyReference

open System
open System.Collections.Generic
open Hybrid
open Hybrid.Tests.Generate

/// A model in a family's own form: config.json, tensors, and the logits of one sequence by loops.
type Example = { Config: string; Tensors: Dictionary<string, int list * float[]>; Logits: int64[] -> float[][] }

let private add = Array.map2 (+)

/// Random tensors by name, remembered.
type private Tensors(chooser: Chooser) =
    let all = Dictionary<string, int list * float[]>()

    member _.All = all

    member _.New(name: string, [<ParamArray>] shape: int[]) : unit =
        let scale = if shape.Length = 1 then 0.5 else 1.0 / sqrt (float shape[shape.Length - 1])

        // As stored: fp32.
        let values = chooser.Normals(Array.fold (*) 1 shape) |> Array.map (fun x -> float (float32 (x * scale)))
        all[name] <- (List.ofArray shape, values)

    member t.Norm(name: string, width: int, bias: bool) : unit =
        t.New(name + ".weight", width)

        if bias then
            t.New(name + ".bias", width)

    member t.Linear(name: string, outputs: int, inputs: int, bias: bool) : unit =
        t.New(name + ".weight", outputs, inputs)

        if bias then
            t.New(name + ".bias", outputs)

    member _.Flat(name: string) : float[] = snd all[name]

    member _.Rows(name: string) : float[][] =
        let shape, flat = all[name]
        Array.chunkBySize shape[1] flat

    /// W x + b.
    member t.Apply(name: string, x: float[]) : float[] =
        let y = t.Rows(name + ".weight") |> Array.map (fun row -> Array.fold2 (fun sum a b -> sum + a * b) 0.0 row x)
        if all.ContainsKey(name + ".bias") then add y (t.Flat(name + ".bias")) else y

    /// GPT-2's Conv1D: x W + b.
    member t.ApplyTransposed(name: string, x: float[]) : float[] =
        let rows, bias = t.Rows(name + ".weight"), t.Flat(name + ".bias")
        Array.mapi (fun j b -> b + (x |> Array.mapi (fun i v -> v * rows[i][j]) |> Array.sum)) bias

    member t.LayerNorm(name: string, epsilon: float, x: float[]) : float[] =
        let mean = Array.average x
        let variance = x |> Array.averageBy (fun v -> (v - mean) * (v - mean))
        let plain = x |> Array.map (fun v -> (v - mean) / sqrt (variance + epsilon))
        Array.map3 (fun v w b -> v * w + b) plain (t.Flat(name + ".weight")) (t.Flat(name + ".bias"))

    member t.RmsNorm(name: string, epsilon: float, x: float[]) : float[] =
        let scale = sqrt ((x |> Array.averageBy (fun v -> v * v)) + epsilon)
        Array.map2 (fun v w -> v / scale * w) x (t.Flat(name + ".weight"))

/// Heads of one position's q, k or v.
let private split (width: int) (x: float[]) = Array.chunkBySize width x

/// The first dimensions of a head rotated, halves against each other; frequencies for each pair and one factor.
let private rotate (frequencies: float[]) (factor: float) (position: int) (x: float[]) : float[] =
    let angles = frequencies |> Array.map (fun f -> float position * f)
    let pairs = frequencies.Length

    x
    |> Array.mapi (fun i v ->
        if i >= 2 * pairs then
            v
        else
            let angle: float = angles[i % pairs]
            let partner = if i < pairs then -x[i + pairs] else x[i - pairs]
            factor * (v * cos angle + partner * sin angle))

/// Causal attention of heads [T][H][C] with keys shared in groups; a query sees `window` positions, or all where it is 0.
let private attend (window: int) (q: float[][][]) (k: float[][][]) (v: float[][][]) : float[][] =
    let groups = q[0].Length / k[0].Length

    q
    |> Array.mapi (fun t heads ->
        heads
        |> Array.mapi (fun h query ->
            let first = if window = 0 then 0 else max 0 (t - window + 1)
            let own = h / groups

            let scores =
                [|
                    for s in first..t ->
                        exp (Array.fold2 (fun sum a b -> sum + a * b) 0.0 query (k[s][own]) / sqrt (float query.Length))
                |]

            let sum = Array.sum scores
            let value c = scores |> Array.mapi (fun s w -> w / sum * Array.item c (v[first + s][own])) |> Array.sum
            Array.init query.Length value)
        |> Array.concat)

let private gelu (x: float) = Reference.gelu x

let private geluNew (x: float) = 0.5 * x * (1.0 + tanh (0.7978845608028654 * (x + 0.044715 * x ** 3.0)))

let private silu (x: float) = x / (1.0 + exp -x)

let gpt2 (chooser: Chooser) : Example =
    let heads, layers, rows, positions = chooser.Int(1, 3), chooser.Int(1, 2), chooser.Int(8, 20), 24
    let width = heads * chooser.Int(1, 4)
    let inner = chooser.Int(3, 20)
    let prefix = chooser.Of [ ""; "transformer." ]
    let name, act = chooser.Of [ "gelu_new", geluNew; "gelu", gelu; "relu", max 0.0 ]
    let epsilon = 1e-5
    let t = Tensors chooser
    t.New(prefix + "wte.weight", rows, width)
    t.New(prefix + "wpe.weight", positions, width)

    for l in 0 .. layers - 1 do
        let at part = $"{prefix}h.{l}.{part}"
        t.Norm(at "ln_1", width, true)
        t.Norm(at "ln_2", width, true)

        for part, inputs, outputs in
            [
                "attn.c_attn", width, 3 * width
                "attn.c_proj", width, width
                "mlp.c_fc", width, inner
                "mlp.c_proj", inner, width
            ] do
            t.New(at part + ".weight", inputs, outputs)
            t.New(at part + ".bias", outputs)

        // Buffers of older files.
        t.New(at "attn.bias", 1, 1, positions, positions)
        t.New(at "attn.masked_bias", 1)

    t.Norm(prefix + "ln_f", width, true)

    let logits (ids: int64[]) =
        let tokens, positionRows = t.Rows(prefix + "wte.weight"), t.Rows(prefix + "wpe.weight")

        let mutable xs = ids |> Array.mapi (fun p id -> add tokens[int id] positionRows[p])

        for l in 0 .. layers - 1 do
            let at part = $"{prefix}h.{l}.{part}"
            let joined = xs |> Array.map (fun x -> t.ApplyTransposed(at "attn.c_attn", t.LayerNorm(at "ln_1", epsilon, x)))
            let part i = joined |> Array.map (fun j -> split (width / heads) (Array.sub j (i * width) width))
            let mixed = attend 0 (part 0) (part 1) (part 2)
            xs <- Array.map2 (fun x m -> add x (t.ApplyTransposed(at "attn.c_proj", m))) xs mixed

            xs <-
                xs
                |> Array.map (fun x ->
                    t.ApplyTransposed(at "mlp.c_fc", t.LayerNorm(at "ln_2", epsilon, x))
                    |> Array.map act
                    |> fun h -> add x (t.ApplyTransposed(at "mlp.c_proj", h)))

        xs
        |> Array.map (fun x ->
            let x = t.LayerNorm(prefix + "ln_f", epsilon, x)
            t.Rows(prefix + "wte.weight") |> Array.map (fun row -> Array.fold2 (fun sum a b -> sum + a * b) 0.0 row x))

    {
        Config =
            $"""{{"model_type": "gpt2", "n_embd": {width}, "n_layer": {layers}, "n_head": {heads}, "vocab_size": {rows}, "n_positions": {positions},
                "n_inner": {inner}, "activation_function": "{name}", "layer_norm_epsilon": 1e-5, "resid_pdrop": 0.1, "architectures": ["GPT2LMHeadModel"]}}"""
        Tensors = t.All
        Logits = logits
    }

let gptNeoX (chooser: Chooser) : Example =
    let heads, layers, rows = chooser.Int(1, 3), chooser.Int(1, 2), chooser.Int(8, 20)
    let headWidth = 2 * chooser.Int(2, 4)
    let width, inner = heads * headWidth, chooser.Int(3, 20)
    let share = chooser.Of [ 0.25; 0.5; 1.0 ]
    let rotating = int (float headWidth * share) / 2 * 2
    let share = if rotating = 0 then 1.0 else float rotating / float headWidth
    let rotating = if rotating = 0 then headWidth else rotating
    let parallelResidual, bias = chooser.Bool(), chooser.Bool()
    let name, act = chooser.Of [ "gelu", gelu; "gelu_new", geluNew; "gelu_fast", geluNew; "relu", max 0.0 ]
    let theta, epsilon = chooser.Of [ 10000.0; 100.0 ], 1e-5
    let t = Tensors chooser
    t.New("gpt_neox.embed_in.weight", rows, width)
    t.New("embed_out.weight", rows, width)

    for l in 0 .. layers - 1 do
        let at part = $"gpt_neox.layers.{l}.{part}"
        t.Norm(at "input_layernorm", width, true)
        t.Norm(at "post_attention_layernorm", width, true)
        t.Linear(at "attention.query_key_value", 3 * width, width, bias)
        t.Linear(at "attention.dense", width, width, bias)
        t.Linear(at "mlp.dense_h_to_4h", inner, width, true)
        t.Linear(at "mlp.dense_4h_to_h", width, inner, true)
        t.New(at "attention.rotary_emb.inv_freq", rotating / 2)
        t.New(at "attention.bias", 1, 1, 8, 8)
        t.New(at "attention.masked_bias", 1)

    t.Norm("gpt_neox.final_layer_norm", width, true)
    let frequencies = Array.init (rotating / 2) (fun i -> theta ** (-2.0 * float i / float rotating))

    let logits (ids: int64[]) =
        let mutable xs = ids |> Array.map (fun id -> Array.item (int id) (t.Rows "gpt_neox.embed_in.weight"))

        for l in 0 .. layers - 1 do
            let at part = $"gpt_neox.layers.{l}.{part}"

            // Each head's rows: its query, its key, its value.
            let joined =
                xs
                |> Array.map (fun x ->
                    t.Apply(at "attention.query_key_value", t.LayerNorm(at "input_layernorm", epsilon, x))
                    |> split (3 * headWidth)
                    |> Array.map (split headWidth))

            let part i turn = joined |> Array.mapi (fun p heads -> heads |> Array.map (fun head -> turn p head[i]))
            let turned = rotate frequencies 1.0
            let mixed = attend 0 (part 0 turned) (part 1 turned) (part 2 (fun _ v -> v))
            let attended = mixed |> Array.map (fun m -> t.Apply(at "attention.dense", m))

            let fed x =
                t.Apply(at "mlp.dense_h_to_4h", t.LayerNorm(at "post_attention_layernorm", epsilon, x))
                |> Array.map act
                |> fun h -> t.Apply(at "mlp.dense_4h_to_h", h)

            xs <-
                Array.map2
                    (fun x a -> if parallelResidual then add (add x a) (fed x) else (let x = add x a in add x (fed x)))
                    xs
                    attended

        xs |> Array.map (fun x -> t.Apply("embed_out", t.LayerNorm("gpt_neox.final_layer_norm", epsilon, x)))

    let yes b = if b then "true" else "false"

    {
        Config =
            $"""{{"model_type": "gpt_neox", "hidden_size": {width}, "num_hidden_layers": {layers}, "num_attention_heads": {heads}, "vocab_size": {rows},
                "max_position_embeddings": 64, "intermediate_size": {inner}, "hidden_act": "{name}", "rotary_pct": {share}, "rotary_emb_base": {theta},
                "use_parallel_residual": {yes parallelResidual}, "attention_bias": {yes bias}, "layer_norm_eps": 1e-5, "tie_word_embeddings": false}}"""
        Tensors = t.All
        Logits = logits
    }

/// Frequencies and factor of a rope_scaling, by transformers' formulas.
let private scaled (chooser: Chooser) (width: int) (theta: float) (length: int) : string * float[] * float =
    let plain = Array.init (width / 2) (fun i -> 1.0 / theta ** (float (2 * i) / float width))

    match chooser.Int(0, 4) with
    | 0 -> "null", plain, 1.0
    | 1 -> """{"type": "linear", "factor": 4.0}""", plain |> Array.map (fun f -> f / 4.0), 1.0
    | 2 when width > 2 ->
        let longest = 6.0
        let seen = max (float length) longest
        let grown = theta * (2.0 * seen / longest - 1.0) ** (float width / float (width - 2))

        """{"rope_type": "dynamic", "factor": 2.0}""",
        Array.init (width / 2) (fun i -> 1.0 / grown ** (float (2 * i) / float width)),
        1.0
    | 3 ->
        let one f =
            let wavelength = 2.0 * Math.PI / f

            if wavelength < 16.0 / 4.0 then
                f
            elif wavelength > 16.0 / 1.0 then
                f / 8.0
            else
                let smooth = (16.0 / wavelength - 1.0) / (4.0 - 1.0)
                (1.0 - smooth) * f / 8.0 + smooth * f

        """{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}""",
        plain |> Array.map one,
        1.0
    | _ ->
        let place turns = float width * log (16.0 / (turns * 2.0 * Math.PI)) / (2.0 * log theta)
        let low, high = max 0.0 (floor (place 32.0)), min (float (width - 1)) (ceil (place 1.0))
        let high = if low = high then high + 0.001 else high

        let one i f =
            let ramp = min 1.0 (max 0.0 ((float i - low) / (high - low)))
            f / 4.0 * ramp + f * (1.0 - ramp)

        """{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}""",
        Array.mapi one plain,
        0.1 * log 4.0 + 1.0

/// Llama and what is built like it.
let llamaLike (family: string) (length: int) (chooser: Chooser) : Example =
    let kv, layers, rows = chooser.Int(1, 2), chooser.Int(1, 2), chooser.Int(8, 20)
    let heads = kv * chooser.Int(1, 3)
    let headWidth = 2 * chooser.Int(2, 4)
    let stable = (family = "stablelm")
    let width = if stable then heads * headWidth else chooser.Int(heads, heads + 5)
    let inner = chooser.Int(3, 20)
    let tied = chooser.Bool()
    let attentionBias = family = "llama" && chooser.Bool()
    let qkvBias = attentionBias || family = "qwen2" || (stable && chooser.Bool())
    let mlpBias = family = "llama" && chooser.Bool()
    let window = if family = "mistral" then chooser.Of [ 0; 2; 4 ] else 0
    let rotating = if stable then headWidth / 2 else headWidth
    let rotating = if rotating % 2 = 0 then rotating else headWidth
    let theta = chooser.Of [ 10000.0; 500.0 ]
    let scaling, frequencies, factor = scaled chooser rotating theta length
    let t = Tensors chooser
    t.New("model.embed_tokens.weight", rows, width)

    if not tied then
        t.New("lm_head.weight", rows, width)

    for l in 0 .. layers - 1 do
        let at part = $"model.layers.{l}.{part}"
        t.Norm(at "input_layernorm", width, stable)
        t.Norm(at "post_attention_layernorm", width, stable)
        t.Linear(at "self_attn.q_proj", heads * headWidth, width, qkvBias)
        t.Linear(at "self_attn.k_proj", kv * headWidth, width, qkvBias)
        t.Linear(at "self_attn.v_proj", kv * headWidth, width, qkvBias)
        t.Linear(at "self_attn.o_proj", width, heads * headWidth, attentionBias)
        t.Linear(at "mlp.gate_proj", inner, width, mlpBias)
        t.Linear(at "mlp.up_proj", inner, width, mlpBias)
        t.Linear(at "mlp.down_proj", width, inner, mlpBias)

    t.Norm("model.norm", width, stable)
    let norm name x = if stable then t.LayerNorm(name, 1e-5, x) else t.RmsNorm(name, 1e-6, x)

    let logits (ids: int64[]) =
        let mutable xs = ids |> Array.map (fun id -> Array.item (int id) (t.Rows "model.embed_tokens.weight"))

        for l in 0 .. layers - 1 do
            let at part = $"model.layers.{l}.{part}"
            let normed = xs |> Array.map (norm (at "input_layernorm"))
            let part name turn = normed |> Array.mapi (fun p x -> t.Apply(at name, x) |> split headWidth |> Array.map (turn p))
            let turned = rotate frequencies factor

            let mixed =
                attend
                    window
                    (part "self_attn.q_proj" turned)
                    (part "self_attn.k_proj" turned)
                    (part "self_attn.v_proj" (fun _ v -> v))

            xs <- Array.map2 (fun x m -> add x (t.Apply(at "self_attn.o_proj", m))) xs mixed

            xs <-
                xs
                |> Array.map (fun x ->
                    let y = norm (at "post_attention_layernorm") x

                    let gated =
                        Array.map2 (fun g u -> silu g * u) (t.Apply(at "mlp.gate_proj", y)) (t.Apply(at "mlp.up_proj", y))

                    add x (t.Apply(at "mlp.down_proj", gated)))

        let head = if tied then "model.embed_tokens" else "lm_head"
        xs |> Array.map (fun x -> t.Apply(head, norm "model.norm" x))

    let yes b = if b then "true" else "false"

    let own =
        match family with
        | "llama" ->
            $""" "attention_bias": {yes attentionBias}, "mlp_bias": {yes mlpBias}, "head_dim": {headWidth}, "rms_norm_eps": 1e-6,"""
        | "mistral" ->
            let window = if window = 0 then "null" else string window
            $""" "sliding_window": {window}, "head_dim": {headWidth}, "rms_norm_eps": 1e-6,"""
        | "qwen2" -> $""" "use_sliding_window": false, "sliding_window": 4096, "head_dim": {headWidth}, "rms_norm_eps": 1e-6,"""
        | _ ->
            $""" "use_qkv_bias": {yes qkvBias}, "layer_norm_eps": 1e-5, "partial_rotary_factor": {float rotating / float headWidth},"""

    {
        Config =
            $"""{{"model_type": "{family}", "hidden_size": {width}, "num_hidden_layers": {layers}, "num_attention_heads": {heads},
                "num_key_value_heads": {kv}, "vocab_size": {rows}, "max_position_embeddings": 6, "intermediate_size": {inner}, "hidden_act": "silu",
                {own} "rope_theta": {theta}, "rope_scaling": {scaling}, "tie_word_embeddings": {yes tied}, "torch_dtype": "float32"}}"""
        Tensors = t.All
        Logits = logits
    }
