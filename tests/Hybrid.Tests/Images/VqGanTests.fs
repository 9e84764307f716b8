/// VQ-GANs as their authors' files hold them, against references in plain loops.
module Hybrid.Tests.VqGanTests

open System
open System.IO
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open Hybrid.Tests.Pickling
open Hybrid.Tests.VqGanModels
open Hybrid.Tests.VqGanReference
open TorchSharp

/// A picture of smooth colours: random pixels would all have the same few codes.
let private picture (seed: int) height width =
    let stream = Random.ofSeed (int64 seed)
    let wave c = 0.2 + 0.6 * Random.uniform stream (int64 c), 6.0 * Random.uniform stream (int64 (10 + c))

    [|
        for y in 0 .. height - 1 do
            for x in 0 .. width - 1 do
                for c in 0..2 ->
                    let speed, phase = wave c
                    byte (127.5 + 120.0 * sin (speed * float (x * (c + 1) - y) + phase))
    |]

let private height, width = 16, 12

/// Runs a reference once, so that all its weights are drawn: its codes with their margins, and its picture of given codes.
let private answers (model: Model) (bytes: byte[]) =
    let found = ofBytes height width bytes |> model.Encode |> quantise model.Codes model.Cost
    found

/// That a tokenizer agrees with a reference: codes but for ties, pictures within a grey level.
let private agrees (model: Model) (tokenizer: PictureTokenizer) =
    let pictures = [| for seed in 1..2 -> picture seed height width |]
    let stride = tokenizer.Stride
    let rows, columns = height / stride, width / stride
    let codes = tokenizer.Encode(pictures, height, width)

    for bytes, ours in Seq.zip pictures codes do
        let theirs = answers model bytes
        let wrong = Seq.zip ours theirs |> Seq.filter (fun (a, (b, margin)) -> a <> b && margin > 1e-4) |> Seq.length
        Expect.equal wrong 0 "codes differ only on ties"
        Expect.isGreaterThan (theirs |> Seq.map fst |> Seq.distinct |> Seq.length) 3 "several codes occur"
        let reference = model.Decode rows columns (Array.map fst theirs) |> levels
        let made = tokenizer.Decode([| Array.map fst theirs |], rows, columns)[0]
        let difference = Seq.map2 (fun (a: byte) b -> abs (float a - b)) made reference |> Seq.max
        // Rounding to bytes is half a level by itself.
        Expect.isLessThan difference 0.51 "the picture agrees"
        Expect.isGreaterThan (Array.max reference - Array.min reference) 20.0 "and is not flat"

/// The model with all its weights drawn.
let private drawnWhole (model: Model) =
    answers model (picture 1 height width) |> ignore

    let stride =
        if (model.Weights.Tensors |> List.exists (fun (name, _) -> name.Contains "conv_blocks.2")) then
            4
        else
            2

    model.Decode (height / stride) (width / stride) (Array.zeroCreate (height / stride * width / stride))
    |> ignore

    model

let private write (path: string) (tensors: (string * torch.Tensor) seq) =
    SafeTensorsWriter.Write(path, [ for name, tensor in tensors -> struct (name, tensor) ])

let private options (averages: bool) (description: string | null) =
    { TokenizerOptions.Default with Description = description; Averages = averages }

let private opened path averages description =
    use _ = ImageTokenizers.Open(path, options averages description)
    ()

let private case name (test: (string -> string) -> unit) =
    testCase name (fun () ->
        inFolder (fun folder ->
            use _ = torch.NewDisposeScope()
            test (fun file -> Path.Combine(folder, file))))

let private references =
    testList
        "references"
        [
            for name, spatial, gumbel, middle in
                [
                    "taming-transformers' VQGAN", false, false, true
                    "the same without attention in the middle", false, false, false
                    "the same with Gumbel's logits", false, true, true
                    "MoVQGAN", true, false, true
                ] do
                case name (fun at ->
                    let model = drawnWhole (taming (Drawn 11L) spatial gumbel middle)
                    let storages = Storages()
                    let noise = torch.ones [| 3L |]

                    let state =
                        storages.State(
                            model.Weights.Tensors @ [ "loss.discriminator.main.0.weight", noise; "loss.logvar", noise ]
                        )

                    File.WriteAllBytes(at "model.ckpt", storages.Archive(dict (trainersExtras @ [ text "state_dict", state ])))

                    use tokenizer = ImageTokenizers.Open(at "model.ckpt")
                    agrees model tokenizer)

            for directions in [ true; false ] do
                case $"LlamaGen's, codes as directions: {directions}" (fun at ->
                    let model = drawnWhole (llamaGen (Drawn 12L) directions)
                    let storages = Storages()

                    let state = storages.State(model.Weights.Tensors @ [ "quantize.codebook_used", torch.zeros [| 64L |] ])

                    File.WriteAllBytes(at "vq.pt", storages.Archive(dict (trainersExtras @ [ text "model", state ])))

                    let said = if directions then null else """{ "codebook_l2_norm": false, "codebook_size": 40 }"""
                    use tokenizer = ImageTokenizers.Open(at "vq.pt", options false said)
                    agrees model tokenizer
                    // A copy keeps what its names no longer tell.
                    ImageTokenizers.Save(tokenizer, at "image_tokenizer.safetensors", 4, 3)
                    use copy = ImageTokenizers.Open(Path.GetDirectoryName(at "vq.pt") |> nonNull)
                    agrees model copy)

            for spatial, old, middle in [ false, false, true; false, true, true; true, false, true; true, true, false ] do
                case $"diffusers' VQModel, spatial: {spatial}, old names: {old}, attention in the middle: {middle}" (fun at ->
                    let model = drawnWhole (diffusers (Drawn 13L) spatial old middle)
                    File.WriteAllText(at "config.json", diffusersConfig spatial middle)

                    if old then
                        let storages = Storages()

                        File.WriteAllBytes(
                            at "diffusion_pytorch_model.bin",
                            storages.Archive(storages.State model.Weights.Tensors)
                        )
                    else
                        write (at "diffusion_pytorch_model.safetensors") model.Weights.Tensors

                    use tokenizer = ImageTokenizers.Open(Path.GetDirectoryName(at "config.json") |> nonNull)
                    agrees model tokenizer
                    ImageTokenizers.Save(tokenizer, at "copy.safetensors", 8, 6)
                    use copy = ImageTokenizers.Open(at "copy.safetensors")
                    agrees model copy)
        ]

/// LitEma's name of a parameter.
let private averageOf (name: string) =
    let part = name[.. name.IndexOf '.' - 1]
    $"""ema_{part}.{name[part.Length + 1 ..].Replace(".", "")}"""

let private averages =
    testList
        "moving averages"
        [
            case "MoVQGAN's trainer keeps them part by part, latent diffusion's as a whole" (fun at ->
                let averaged = drawnWhole (taming (Drawn 21L) true false true)
                let last = drawnWhole (taming (Drawn 22L) true false true)

                for name, entry in [ "parts.ckpt", averageOf; "whole.ckpt", (fun name -> "model_ema." + name.Replace(".", "")) ] do
                    let storages = Storages()

                    let counters =
                        [
                            "ema_encoder.decay", torch.full ([||], Scalars.Of(0.9999))
                            "ema_encoder.num_updates", torch.ones [||]
                        ]

                    let state =
                        storages.State(
                            last.Weights.Tensors
                            @ [ for name, tensor in averaged.Weights.Tensors -> entry name, tensor ]
                            @ counters
                        )

                    File.WriteAllBytes(at name, storages.Archive(dict [ text "state_dict", state ]))
                    use plain = ImageTokenizers.Open(at name)
                    agrees last plain
                    use ema = ImageTokenizers.Open(at name, options true null)
                    agrees averaged ema
                    Expect.notEqual (ImageTokenizers.Hash(at name, true)) (ImageTokenizers.Hash(at name, false)) "two tokenizers")

            case "LlamaGen's trainer keeps a second state dict" (fun at ->
                let averaged, last = drawnWhole (llamaGen (Drawn 23L) true), drawnWhole (llamaGen (Drawn 24L) true)
                let storages = Storages()

                let both =
                    [ text "model", storages.State last.Weights.Tensors; text "ema", storages.State averaged.Weights.Tensors ]

                File.WriteAllBytes(at "vq.pt", storages.Archive(dict both))
                use plain = ImageTokenizers.Open(at "vq.pt")
                agrees last plain
                use ema = ImageTokenizers.Open(at "vq.pt", options true null)
                agrees averaged ema)

            case "a codebook that is itself an average has none of its own" (fun at ->
                let averaged = drawnWhole (taming (Drawn 25L) false false true)
                let last = drawnWhole (taming (Drawn 26L) false false true)
                let book (name: string) = name.StartsWith "quantize."

                let tensors =
                    [
                        for (name, a), (_, l) in Seq.zip averaged.Weights.Tensors last.Weights.Tensors do
                            if book name then
                                name, a
                            else
                                name, l
                                averageOf name, a
                        "quantize.embedding.cluster_size", torch.ones [| 40L |]
                        "quantize.embedding.embed_avg", torch.ones [| 40L; 5L |]
                    ]

                write (at "model.safetensors") tensors
                use ema = ImageTokenizers.Open(at "model.safetensors", options true null)
                agrees averaged ema)

            case "averages that are not there, or not whole, are refused" (fun at ->
                let model = drawnWhole (taming (Drawn 27L) false false true)
                write (at "none.safetensors") model.Weights.Tensors

                let refused file parts = Running.fails parts (fun () -> opened (at file) true null)

                refused "none.safetensors" [ "none.safetensors"; "no moving averages"; "--ema" ]
                let copies = [ for name, tensor in model.Weights.Tensors -> averageOf name, tensor ]

                write
                    (at "gap.safetensors")
                    (model.Weights.Tensors @ (copies |> List.filter (fun (name, _) -> name <> "ema_decoder.conv_outbias")))

                refused "gap.safetensors" [ "'decoder.conv_out.bias' has no moving average" ]

                let bent =
                    copies |> List.map (fun (name, t) -> name, (if name = "ema_encoder.conv_inbias" then t.unsqueeze 0L else t))

                write (at "bent.safetensors") (model.Weights.Tensors @ bent)
                refused "bent.safetensors" [ "'ema_encoder.conv_inbias' has shape [1, 32]" ])
        ]

let private descriptions =
    let movq (change: string -> string) =
        change
            $$"""{ "embed_dim": {{codeWidth}}, "n_embed": {{codeCount}}, "ddconfig": { "double_z": false, "z_channels": {{latent}}, "resolution": 16,
                   "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [8], "dropout": 0.0 } }"""

    testList
        "configurations"
        [
            case "each form is taken, wrapped or not" (fun at ->
                let model = drawnWhole (taming (Drawn 31L) false false true)
                write (at "model.safetensors") model.Weights.Tensors
                let plain = movq id

                for said in
                    [
                        plain
                        $$"""{ "model": { "base_learning_rate": 4.5e-6, "target": "taming.models.vqgan.VQModel", "params": {{plain}} } }"""
                        $$"""{ "target": "a.b", "params": {{plain}} }"""
                        """{ "codebook_size": 40, "codebook_embed_dim": 5, "encoder_ch_mult": [1, 2], "z_channels": 6 }"""
                        """{ "block_out_channels": [32, 64], "norm_num_groups": 32, "vq_embed_dim": null }"""
                        "{}"
                    ] do
                    use tokenizer = ImageTokenizers.Open(at "model.safetensors", options false said)
                    Expect.equal tokenizer.Codes codeCount "the tokenizer is open")

            case "what does not fit the tensors, is unknown or is not supported is said" (fun at ->
                let model = drawnWhole (taming (Drawn 32L) false false true)
                write (at "model.safetensors") model.Weights.Tensors
                let replaced (a: string) (b: string) = movq (fun said -> said.Replace(a, b))

                for said, parts in
                    [
                        replaced "\"n_embed\": 40" "\"n_embed\": 41", [ "n_embed is 41 and the tensors have 40" ]
                        replaced "[1, 2]" "[1, 4]", [ "ch_mult is [32, 128] and the tensors have [32, 64]" ]
                        replaced "[8]" "[16]", [ "attn_resolutions"; "[0]"; "[1]" ]
                        replaced "\"double_z\": false" "\"double_z\": true", [ "ddconfig.double_z" ]
                        replaced "\"dropout\"" "\"add_conv\": true, \"dropout\"", [ "ddconfig.add_conv" ]
                        replaced "\"ch\"" "\"chh\"", [ "ddconfig.chh" ]
                        replaced "\"embed_dim\": 5" "\"embed_dim\": 5, \"remap\": \"used.npy\"", [ "remap" ]
                        """{ "block_out_channels": [32, 64], "act_fn": "relu" }""", [ "act_fn" ]
                        """{ "block_out_channels": [32, 64], "norm_type": "spatial" }""", [ "norm_type is spatial" ]
                        """{ "block_out_channels": [32, 64], "norm_num_groups": 5 }""", [ "32 channels"; "5 groups" ]
                        """{ "block_out_channels": [32, 64], "mid_block_add_attention": false }""", [ "mid_block_add_attention" ]
                        """{ "block_out_channels": [32, 64], "up_block_types": ["CrossUp", "UpDecoderBlock2D"] }""",
                        [ "CrossUp" ]
                        """{ "block_out_channels": [32, 64], "_class_name": "AutoencoderKL" }""", [ "AutoencoderKL" ]
                        """{ "codebook_size": 39 }""", [ "codebook_size is 39" ]
                        "{ \"codebook_size\": ", [ "JSON" ]
                    ] do
                    Running.fails ("model.safetensors" :: parts) (fun () -> opened (at "model.safetensors") false said))

            case "the configuration beside diffusers' weights is read and named" (fun at ->
                let model = drawnWhole (diffusers (Drawn 33L) false false true)
                write (at "diffusion_pytorch_model.safetensors") model.Weights.Tensors
                // Eight groups are nowhere in the tensors.
                Running.fails [ "norm_num_groups" ] (fun () -> opened (at "diffusion_pytorch_model.safetensors") false null)

                File.WriteAllText(at "config.json", (diffusersConfig false true).Replace("0.18215", "true, \"x\": 1"))

                Running.fails [ "config.json"; "x" ] (fun () -> opened (at "diffusion_pytorch_model.safetensors") false null))

            case "entries that have no place are named, and so are renumbered codes" (fun at ->
                let model = drawnWhole (taming (Drawn 34L) false false true)

                for extra, part in
                    [
                        "encoder.down.0.block.0.temb_proj.weight", "temb_proj"
                        "decoder.up.0.block.2.conv1.weight", "decoder.up.0.block.2"
                        "quantize.used", "renumbers"
                    ] do
                    write (at "more.safetensors") (model.Weights.Tensors @ [ extra, torch.ones [| 2L |] ])
                    Running.fails [ "more.safetensors"; part ] (fun () -> opened (at "more.safetensors") false null))

            case "a tokenizer within another model is found by its prefix" (fun at ->
                let model = drawnWhole (taming (Drawn 35L) false false true)

                write
                    (at "ldm.safetensors")
                    [
                        for name, tensor in model.Weights.Tensors do
                            "first_stage_model." + name, tensor
                        "model.diffusion_model.out.weight", torch.ones [| 2L |]
                    ]

                use tokenizer = ImageTokenizers.Open(at "ldm.safetensors")
                agrees model tokenizer)
        ]

let tests = testList "VqGan" [ references; averages; descriptions ]
