module Hybrid.Tests.DecoderTests

open System.Collections.Generic
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

let private drawn (seed: int64) =
    let chooser = Chooser seed
    let config = config chooser (chooser.Int(3, 20))
    chooser, config, store Fp32 config seed

let private tokens (chooser: Chooser) (config: ModelConfig) (b: int) (t: int) =
    chooser.Ints(b * t, config.Rows) |> Array.map int64 |> Host.int64s [ int64 b; int64 t ]

/// The same weights in double precision.
let private widened (store: ParameterStore) : Weights =
    lookup (dict [ for slot in store.Slots -> slot.Spec.Name, (store.Weights slot.Spec.Name).detach().``to`` torch.float64 ])

let private reference (store: ParameterStore) (config: ModelConfig) (tokens: torch.Tensor) : float[] =
    ids tokens
    |> Array.chunkBySize (int tokens.shape[1])
    |> Array.collect (Reference.logits config (store.Weights >> values))
    |> Array.concat

let tests =
    testList
        "Decoder"
        [
            property2 "logits are the reference's" (1, 3) (1, 9) (fun seed b t ->
                let chooser, config, store = drawn seed
                use store = store
                let tokens = tokens chooser config b t
                let expected = reference store config tokens
                let wide = Decoder.logits config config.Rows (widened store) tokens
                Expect.equal wide.shape [| int64 b; int64 t; int64 config.Rows |] "shape"
                closeAsVectors 1e-6 $"double precision, %A{config}" expected (values wide)
                let single = Decoder.logits config config.Rows store.Weights tokens
                Expect.equal single.dtype torch.float32 "type"
                closeAsVectors 1e-4 $"fp32, %A{config}" expected (values single))

            property1 "logits of bf16 follow those of fp32" (1, 9) (fun seed t ->
                let chooser = Chooser seed
                // A tiny variance or normed vector would make any rounding large; this is about the path, not about conditioning.
                let config =
                    { config chooser 9 with
                        Width = 32
                        Heads = 2
                        KeyValueHeads = 1
                        HeadWidth = 16
                        NormEpsilon = 1e-3
                    }

                use narrow = store Bf16 config seed
                let tokens = tokens chooser config 2 t
                let logits = Decoder.logits config config.Rows narrow.Weights tokens
                Expect.equal logits.dtype torch.bfloat16 "type"
                closeAsVectors 0.08 $"%A{config}" (reference narrow config tokens) (values logits))

            property2 "no position sees a later one" (2, 9) (1, 3) (fun seed t b ->
                let chooser, config, store = drawn seed
                use store = store
                let before = tokens chooser config b t
                let place = chooser.Int(1, t - 1)
                let after = before.clone ()
                let column = after.narrow (1, int64 place, 1L)
                column.add_(Scalars.Of(1)).remainder_(Scalars.Of(config.Rows)) |> ignore
                let logits tokens = Decoder.logits config config.Rows store.Weights tokens
                let a, b = logits before, logits after
                let earlier (x: torch.Tensor) = values (x.narrow (1, 0L, int64 place))
                close 1e-6 1e-6 "logits before the change" (earlier a) (earlier b)
                let from (x: torch.Tensor) = values (x.narrow (1, int64 place, 1L))
                Expect.notEqual (from a) (from b) "the changed position itself")

            property2 "sequences of a batch do not meet" (2, 5) (1, 6) (fun seed b t ->
                let chooser, config, store = drawn seed
                use store = store
                let tokens = tokens chooser config b t
                let order = Array.init b (fun i -> Random.permuted (int64 b) (Random.ofSeed seed) (int64 i))
                let order = Host.int64s [ int64 b ] order
                let logits tokens = Decoder.logits config config.Rows store.Weights tokens
                let whole = logits tokens
                let permuted = logits (tokens.index_select (0L, order))
                close 1e-5 1e-5 "permuted" (values (whole.index_select (0L, order))) (values permuted)
                let alone = logits (tokens.narrow (0, 0L, 1L))
                close 1e-5 1e-5 "alone" (values (whole.narrow (0, 0L, 1L))) (values alone))

            property2 "rows that only pad the table get no logit" (1, 6) (1, 2) (fun seed t b ->
                let chooser, config, store = drawn seed
                use store = store
                let tokens = tokens chooser config b t
                let rows = chooser.Int(1, config.Rows)
                let whole = Decoder.logits config config.Rows store.Weights tokens
                let fewer = Decoder.logits config rows store.Weights tokens
                Expect.equal fewer.shape [| int64 b; int64 t; int64 rows |] "shape"
                close 1e-6 1e-6 "values" (values (whole.narrow (2, 0L, int64 rows))) (values fewer))

            property2 "embed >> blocks >> norm >> head is the model, with these shapes" (1, 3) (1, 6) (fun seed b t ->
                let chooser, config, store = drawn seed
                use store = store
                let tokens = tokens chooser config b t
                let w = store.Weights
                let wide = [| int64 b; int64 t; int64 config.Width |]

                let shaped what (x: torch.Tensor) =
                    (Expect.equal x.shape wide what
                     x)

                let rotation = Decoder.rotation config w 0L (int64 t)
                let mutable x = Decoder.embed config w tokens |> shaped "embed"

                for layer in 0 .. config.Layers - 1 do
                    x <- Decoder.block config w rotation layer x |> shaped "block"

                let hidden = Decoder.finalNorm config w x |> shaped "norm"
                Expect.equal (bits hidden) (bits (Decoder.hidden config w tokens |> shaped "hidden")) "hidden states"
                let logits = Decoder.head config w config.Rows hidden
                Expect.equal (bits logits) (bits (Decoder.logits config config.Rows w tokens)) "logits"
                let table = Decoder.headTable config w
                Expect.equal table.shape [| int64 config.Rows; int64 config.Width |] "the head's table")

            property "the model looks up exactly the parameters that it declares" (fun seed ->
                let chooser, config, store = drawn seed
                use store = store
                let asked = HashSet<string>()

                let spied name =
                    asked.Add name |> ignore
                    store.Weights name

                Decoder.logits config config.Rows spied (tokens chooser config 1 2) |> ignore
                Expect.equal (Set.ofSeq asked) (Decoder.parameters config |> List.map _.Name |> Set.ofList) "names")

            testCase "parameters have open_lm's names and shapes" (fun () ->
                let config = { ModelConfig.openLm 8 1 2 20 9 with QkNorm = true }

                Expect.equal
                    (Decoder.parameters config |> List.map (fun s -> s.Name, s.Shape) |> List.sort)
                    (List.sort
                        [
                            "tok_embeddings.weight", [ 20L; 8L ]
                            "layers.0.attention.in_proj.weight", [ 24L; 8L ]
                            "layers.0.attention.out_proj.weight", [ 8L; 8L ]
                            "layers.0.attention.q_norm.weight", [ 8L ]
                            "layers.0.attention.q_norm.bias", [ 8L ]
                            "layers.0.attention.k_norm.weight", [ 8L ]
                            "layers.0.attention.k_norm.bias", [ 8L ]
                            "layers.0.feed_forward.w12.weight", [ 512L; 8L ]
                            "layers.0.feed_forward.w3.weight", [ 8L; 256L ]
                            "layers.0.attention_norm.weight", [ 8L ]
                            "layers.0.attention_norm.bias", [ 8L ]
                            "layers.0.ffn_norm.weight", [ 8L ]
                            "layers.0.ffn_norm.bias", [ 8L ]
                            "norm.weight", [ 8L ]
                            "norm.bias", [ 8L ]
                            "output.weight", [ 20L; 8L ]
                        ])
                    "SwiGLU, LayerNorm, norms of q and k"

                let config =
                    { config with
                        QkNorm = false
                        Norm = RmsNorm
                        PostEmbedNorm = true
                        Tied = true
                        FeedForward = Gelu
                        FeedForwardWidth = 32
                    }

                Expect.equal
                    (Decoder.parameters config |> List.map (fun s -> s.Name, s.Shape) |> List.sort)
                    (List.sort
                        [
                            "tok_embeddings.weight", [ 20L; 8L ]
                            "post_embed_norm.weight", [ 8L ]
                            "layers.0.attention.in_proj.weight", [ 24L; 8L ]
                            "layers.0.attention.out_proj.weight", [ 8L; 8L ]
                            "layers.0._ff_w1.weight", [ 32L; 8L ]
                            "layers.0._ff_w2.weight", [ 8L; 32L ]
                            "layers.0.attention_norm.weight", [ 8L ]
                            "layers.0.ffn_norm.weight", [ 8L ]
                            "norm.weight", [ 8L ]
                        ])
                    "GELU, RMS norm, tied")

            case "tokens that are not [B, T] int64 are refused" (fun () ->
                let _, config, store = drawn 1L
                use store = store
                let logits (tokens: torch.Tensor) () = Decoder.logits config config.Rows store.Weights tokens |> ignore
                misshapen "one axis" (logits (torch.zeros ([| 3L |], dtype = torch.int64)))
                misshapen "fp32" (logits (torch.zeros [| 1L; 3L |]))
                misshapen "int32" (logits (torch.zeros ([| 1L; 3L |], dtype = torch.int32))))

            case "a pass leaves nothing alive but its result" (fun () ->
                let chooser, config, store = drawn 2L
                use store = store
                let tokens = tokens chooser config 2 5

                let pass () =
                    use logits = Decoder.logits config config.Rows store.Weights tokens
                    logits.dtype |> ignore

                pass ()
                let before = liveTensors ()

                for _ in 1..3 do
                    pass ()

                Expect.equal (liveTensors ()) before "live tensors")
        ]
