module Hybrid.Tests.ConfigTests

open System.Text.Json
open System.Text.Json.Nodes
open Expecto
open Hybrid
open Hybrid.Tests.Generate

let private openLm1b = { ModelConfig.openLm 2048 24 16 50432 2048 with Position = HeadRotary }

let private parseHybrid (text: string) = Json.parse text HybridConfig.read

/// A description in open_lm's words, made of a seed.
let private openLmText (chooser: Chooser) =
    let heads = chooser.Int(1, 8)
    let width = heads * 2 * chooser.Int(1, 20)
    let layers, rows, positions = chooser.Int(1, 30), chooser.Int(1, 60000), chooser.Int(1, 4096)

    let norm, expectedNorm =
        chooser.Of
            [
                "default_layer_norm", LayerNorm
                "lp_layer_norm", LayerNorm
                "gain_only_layer_norm", GainLayerNorm
                "gain_only_lp_layer_norm", GainLayerNorm
                "no_wb_layer_norm", PlainLayerNorm
                "rms_norm", RmsNorm
            ]

    let position, expectedPosition =
        chooser.Of [ "rotary", Rotary; "head_rotary", HeadRotary; "llama_rotary", InterleavedRotary; "none", NoPosition ]

    let feedForward, expectedFeedForward = chooser.Of [ "swiglu", SwiGlu; "swiglu_torch", SwiGlu; "gelu", Gelu ]
    let qk, post, tied = chooser.Bool(), chooser.Bool(), chooser.Bool()
    let json = JsonObject()
    let add (name: string) (value: 'a) = json.Add(name, JsonValue.Create<'a> value)
    add "hidden_dim" width
    add "n_layers" layers
    add "n_heads" heads
    add "vocab_size" rows
    add "seq_len" positions
    add "model_norm" norm
    add "positional_embedding_type" position
    add "ffn_type" feedForward
    add "qk_norm" qk
    add "post_embed_norm" post
    add "weight_tying" tied
    add "moe_freq" 0

    let expected =
        { ModelConfig.openLm width layers heads rows positions with
            Norm = expectedNorm
            Position = expectedPosition
            FeedForward = expectedFeedForward
            FeedForwardWidth =
                if expectedFeedForward = Gelu then
                    4 * width
                else
                    // 256 · ⌈⌊8D/3⌋ / 256⌉
                    int (256.0 * ceil (floor (8.0 * float width / 3.0) / 256.0))
            QkNorm = qk
            PostEmbedNorm = post
            Tied = tied
        }

    json, expected

let private llama =
    """{"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4,
        "intermediate_size": 172, "vocab_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": true, "torch_dtype": "float32", "hidden_act": "silu", "rope_scaling": null}"""

let tests =
    testList
        "Config"
        [
            property "open_lm's JSON gives the model it describes" (fun seed ->
                let json, expected = openLmText (Chooser seed)
                Expect.equal (ModelConfig.ofOpenLm (json.ToJsonString()) |> accepted "open_lm's JSON") expected "the model")

            testCase "open_lm's JSON fills in open_lm's defaults" (fun () ->
                let text = """{"hidden_dim": 2048, "n_layers": 24, "n_heads": 16, "vocab_size": 50432, "seq_len": 2048}"""
                let config = ModelConfig.ofOpenLm text |> accepted "a short description"
                Expect.equal config { openLm1b with Position = Rotary } "the model"
                Expect.equal config.HeadWidth 128 "head width"
                Expect.equal config.NormEpsilon 1e-5 "epsilon")

            testCase "every wrong key of open_lm's JSON is named at once" (fun () ->
                let text =
                    """{"hidden_dim": 0, "n_layers": "24", "n_heads": 1.5, "vocab_size": -1, "model_norm": "batch_norm",
                        "qk_norm": 1, "post_embed_norm": "no", "positional_embedding_type": "alibi", "ffn_type": "moe",
                        "weight_tying": null, "moe_freq": 2, "hiden_dim": 8}"""

                ModelConfig.ofOpenLm text
                |> errorsAt
                    "a description full of errors"
                    [
                        "hidden_dim"
                        "n_layers"
                        "n_heads"
                        "vocab_size"
                        "seq_len"
                        "model_norm"
                        "qk_norm"
                        "post_embed_norm"
                        "positional_embedding_type"
                        "ffn_type"
                        "weight_tying"
                        "moe_freq"
                        "hiden_dim"
                    ])

            property "each misspelt key of open_lm's JSON is reported with what was meant" (fun seed ->
                let chooser = Chooser seed
                let json, _ = openLmText chooser
                let keys = [ for pair in json -> pair.Key ]
                let key = chooser.Of keys
                let typo = key.Insert(chooser.Int(1, key.Length - 1), "x")
                let value = json[key] |> Option.ofObj |> Option.map _.DeepClone() |> Option.toObj
                json.Remove key |> ignore
                json.Add(typo, value)

                match ModelConfig.ofOpenLm (json.ToJsonString()) with
                | Ok _ -> failtest $"{typo} was accepted"
                | Error errors ->
                    let unknown = errors |> List.filter (fun e -> e.StartsWith $"{typo}:")
                    Expect.equal unknown.Length 1 $"one error for {typo}"
                    Expect.stringContains unknown.Head $"did you mean {key}?" "the suggestion")

            testCase "heads that do not fit and odd rotary heads are refused" (fun () ->
                let text (width: int) (heads: int) (position: string) =
                    $"""{{"hidden_dim": {width}, "n_layers": 1, "n_heads": {heads}, "vocab_size": 8, "seq_len": 8,
                          "positional_embedding_type": "{position}"}}"""

                Expect.isError (ModelConfig.ofOpenLm (text 4 8 "none")) "more heads than width"
                Expect.isError (ModelConfig.ofOpenLm (text 6 2 "rotary")) "head width 3 with rotary"
                Expect.isError (ModelConfig.ofOpenLm (text 6 2 "llama_rotary")) "head width 3 with interleaved rotary"
                Expect.isOk (ModelConfig.ofOpenLm (text 6 2 "none")) "head width 3 without rotary"
                // open_lm's 87m: 12 heads in width 488 are 40 wide each.
                let odd = ModelConfig.ofOpenLm (text 488 12 "rotary") |> accepted "a width that heads do not divide"
                Expect.equal (odd.HeadWidth, ModelConfig.queryWidth odd) (40, 480) "head width")

            testCase "a Llama config.json gives the model it describes" (fun () ->
                let expected =
                    { ModelConfig.openLm 64 5 8 512 512 with
                        KeyValueHeads = 4
                        FeedForwardWidth = 172
                        Norm = RmsNorm
                        NormEpsilon = 1e-5
                        Tied = true
                    }

                Expect.equal (HuggingFaceConfig.read llama |> accepted "a Llama") expected "the model")

            testCase "what a Llama may not have is refused by name" (fun () ->
                for key, value in
                    [
                        "rope_scaling", "{\"type\": \"su\"}"
                        "rope_scaling", "{\"rope_type\": \"longrope\", \"factor\": 2}"
                        "hidden_act", "\"gelu\""
                        "model_type", "\"bert\""
                        "quantization_config", "{\"bits\": 4}"
                        "num_key_value_heads", "3"
                    ] do
                    let json =
                        match JsonNode.Parse llama with
                        | :? JsonObject as json -> json
                        | _ -> failtest "the example is no object"

                    json[key] <- JsonNode.Parse value
                    let place = if key = "num_key_value_heads" then "model_type" else key
                    HuggingFaceConfig.read (json.ToJsonString()) |> errorsAt key [ place ])

            property "write and read are inverse" (fun seed ->
                let chooser = Chooser seed
                let config = config chooser (chooser.Int(1, 70000))
                let text = (HybridConfig.write config).ToJsonString()
                Expect.equal (parseHybrid text |> accepted "what write wrote") config "the model")

            property "every key that write writes is needed and checked" (fun seed ->
                let chooser = Chooser seed
                let json = HybridConfig.write (config chooser 9)
                let keys = [ for pair in json -> pair.Key ]
                Expect.equal keys.Length 24 "a field each"

                // Checkpoints of earlier versions lack these.
                let later =
                    [ "rotaryWidth"; "rotaryScaling"; "window"; "parallelResidual"; "qkvBias"; "outBias"; "feedForwardBias" ]

                for key in keys do
                    let without = json.DeepClone().AsObject()
                    without.Remove key |> ignore

                    if not (List.contains key later) then
                        Expect.isError (parseHybrid (without.ToJsonString())) $"{key} is missing"

                    let mistyped = json.DeepClone().AsObject()
                    mistyped[key] <- JsonObject()

                    match parseHybrid (mistyped.ToJsonString()) with
                    | Ok _ -> failtest $"{key} as an object was accepted"
                    | Error errors -> Expect.isNonEmpty (errors |> List.filter (fun e -> e.StartsWith key)) $"{key} is named")

            testCase "the SwiGLU width is open_lm's" (fun () ->
                for width, expected in [ 2048, 5632; 4096, 11008; 1024, 2816; 96, 256; 97, 512; 64, 256; 3, 256; 288, 768 ] do
                    Expect.equal (ModelConfig.swiGluWidth width) expected $"width {width}")

            testCase "open_lm_1b and its extension count as published" (fun () ->
                Expect.equal (Decoder.parameterCount openLm1b) 1_439_895_552L "open_lm_1b with LayerNorm"

                Expect.equal
                    (Decoder.parameterCount { openLm1b with Norm = GainLayerNorm })
                    1_439_795_200L
                    "its gain-only variant"

                let extended = Extension.grow 66823 openLm1b
                Expect.equal (Decoder.parameterCount extended) 1_507_033_088L "extended"
                Expect.equal (ModelConfig.matrixParameters extended) 1_369_978_880L "in matrix products"
                near 0.0 1e-4 "FLOPs per token" 8.899e9 (ModelConfig.flopsPerToken extended 1152))

            property "parameters in matrix products are the matrices but for the embedding" (fun seed ->
                let chooser = Chooser seed
                let config = config chooser (chooser.Int(1, 50))

                let matrices = Decoder.parameters config |> List.filter (fun s -> s.Shape.Length = 2) |> List.sumBy _.Count

                let table = int64 config.Rows * int64 config.Width

                let positions =
                    if config.Position = LearnedPosition then
                        int64 config.Positions * int64 config.Width
                    else
                        0L

                let expected = (if config.Tied then matrices else matrices - table) - positions
                Expect.equal (ModelConfig.matrixParameters config) expected "the count")
        ]
