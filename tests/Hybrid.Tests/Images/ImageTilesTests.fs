/// Tiles of large pictures, what they take, and the golden MoVQGAN under other names and in bf16.
module Hybrid.Tests.ImageTilesTests

open System
open System.IO
open System.Threading
open Expecto
open FsCheck
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport
open TorchSharp

let private within low high (generated: int) = low + abs (generated % (high - low + 1))

let private tiles =
    testList
        "tiles"
        [
            testProperty
                "an axis is covered, tiles overlap, every cell has an owner, shares are one in all"
                (fun (a: int) (b: int) ->
                    let length, tile, stride = int64 (within 1 90 a), int64 (within 2 40 b), 3L
                    let axis = ImageTiles.axis length tile
                    let owners = ImageTiles.owners length axis
                    let total = Array.zeroCreate<float32>(int (length * stride))

                    for start, share in Seq.zip axis.Starts (ImageTiles.shares length stride axis) do
                        share |> Array.iteri (fun i s -> total[int (start * stride) + i] <- total[int (start * stride) + i] + s)

                    axis.Starts.Head = 0L
                    && List.last axis.Starts + axis.Length = length
                    && axis.Length <= tile
                    && (axis.Starts |> List.pairwise |> List.forall (fun (x, y) -> y > x && y - x < axis.Length))
                    && owners.Length = int length
                    && owners = Array.sort owners
                    && total |> Array.forall (fun t -> abs (t - 1.0f) < 1e-5f))

            testProperty "functions of each cell alone give the same in tiles" (fun (a: int) (b: int) (c: int) ->
                use _ = torch.NewDisposeScope()
                let h, w, tile = int64 (within 1 30 a), int64 (within 1 30 b), int64 (within 2 12 c)
                let images = torch.arange(Scalars.Of(12L * 2L * h * w)).reshape(2L, 3L, h * 2L, w * 2L).``to`` torch.float32

                let cells (x: torch.Tensor) =
                    x.select(1L, 0L).slice(1L, 0L, x.shape[2], 2L).slice(2L, 0L, x.shape[3], 2L).``to`` torch.int64

                let codes = ImageTiles.encode 2L tile cells images

                let grow (codes: torch.Tensor) =
                    codes.unsqueeze(1L).``to``(torch.float32).repeat_interleave(2L, 2L).repeat_interleave(2L, 3L)

                let back = ImageTiles.decode 2L tile 1L grow codes
                codes.equal(cells images).all().item<bool>() && torch.allclose (back, grow codes, 1e-5, 1e-3))

            testCase "a budget decides the tiles, and the smallest is the least" (fun () ->
                let config = VqGanTokenizer VqGan.moVq67M
                let whole = ImageTokenizer.workingBytes config 4L 1024L 1024L
                Expect.isNone (ImageTokenizer.plan whole config 4L 128L 128L).Tile "whole where it fits"
                let plan = ImageTokenizer.plan (whole / 2L) config 4L 128L 128L
                let side = Option.get plan.Tile

                Expect.isLessThanOrEqual
                    (ImageTokenizer.workingBytes config 4L (8L * side) (8L * side))
                    (whole / 2L)
                    "a tile fits"

                Expect.isGreaterThan side 64L "and is as large as may be"

                Running.fails [ "memory budget of 20 MB"; "smallest tiles" ] (fun () ->
                    ImageTokenizer.plan 20_000_000L config 4L 128L 128L |> ignore))
        ]

/// MoVQGAN's names as diffusers has them.
let private diffusersName (name: string) =
    let swap (a: string) (b: string) (s: string) = s.Replace(a, b)
    let parts = name.Split '.'

    let moved =
        match parts with
        | [| "encoder"; "down"; l; "downsample"; _; leaf |] -> $"encoder.down_blocks.{l}.downsamplers.0.conv.{leaf}"
        | [| "decoder"; "up"; l; "upsample"; _; leaf |] -> $"decoder.up_blocks.{3 - int l}.upsamplers.0.conv.{leaf}"
        | _ when name.StartsWith "encoder.down." ->
            let kind = if parts[3] = "block" then "resnets" else "attentions"
            $"""encoder.down_blocks.{parts[2]}.{kind}.{String.Join('.', parts[4..])}"""
        | _ when name.StartsWith "decoder.up." ->
            let kind = if parts[3] = "block" then "resnets" else "attentions"
            $"""decoder.up_blocks.{3 - int parts[2]}.{kind}.{String.Join('.', parts[4..])}"""
        | _ -> name

    let renamed =
        moved
        |> swap ".mid.block_1." ".mid_block.resnets.0."
        |> swap ".mid.block_2." ".mid_block.resnets.1."
        |> swap ".mid.attn_1." ".mid_block.attentions.0."
        |> swap ".norm_out." ".conv_norm_out."
        |> swap ".nin_shortcut." ".conv_shortcut."

    if renamed.Contains ".attentions." then
        renamed
        |> swap ".q." ".to_q."
        |> swap ".k." ".to_k."
        |> swap ".v." ".to_v."
        |> swap ".proj_out." ".to_out.0."
        |> swap ".norm." (if renamed.StartsWith "encoder" then ".group_norm." else ".spatial_norm.")
    else
        renamed

let private golden =
    testCase "movq_a under diffusers' names, as moving averages, in bf16 and in tiles" (fun () ->
        let at name = Material.shared $"golden/movq_a/{name}"
        let pictures = [| for i in 0..2 -> Pictures.Read(at $"in_{i}.png") |]
        let reference = [| for i in 0..2 -> Pictures.Read(at $"rec_{i}.png") |]
        use codes = NpyFile.Open(at "codes.npy")
        use margins = NpyFile.Open(at "margin.npy")
        use _ = torch.NewDisposeScope()
        let expected = codes.Load().reshape(-1L).``to``(torch.int64).data<int64>().ToArray() |> Array.map int
        let margin = margins.Load().reshape(-1L).``to``(torch.float32).data<float32>().ToArray()
        let side = pictures[0].Width

        /// The share of equal codes; none may differ but on ties where `exact`.
        let agrees (exact: bool) (tokenizer: PictureTokenizer) =
            let found = tokenizer.Encode([| for p in pictures -> p.Pixels |], side, side) |> Array.concat

            let different =
                [
                    for i in 0 .. found.Length - 1 do
                        if found[i] <> expected[i] then
                            i
                ]

            if exact then
                Expect.isEmpty (different |> List.filter (fun i -> margin[i] > 1e-4f)) "codes differ only on ties"
                let back = tokenizer.Decode(Array.chunkBySize (expected.Length / 3) expected, side / 8, side / 8)

                for ours, theirs in Seq.zip back reference do
                    let most = Seq.map2 (fun (a: byte) (b: byte) -> abs (int a - int b)) ours theirs.Pixels |> Seq.max
                    Expect.isLessThanOrEqual most 1 "pictures within a grey level"

            1.0 - float different.Length / float found.Length

        inFolder (fun folder ->
            use file = TensorFiles.Open(at "movq.ckpt")
            let entries = [ for name in file.Entries.Keys -> name, file.Load name ]

            let renamed =
                [
                    for name, tensor in entries do
                        let name = diffusersName name
                        let linear = name.Contains ".to_" && name.EndsWith ".weight"
                        struct (name, (if linear then tensor.flatten 1L else tensor))
                ]

            SafeTensorsWriter.Write(Path.Combine(folder, "diffusion_pytorch_model.safetensors"), renamed)
            use named = ImageTokenizers.Open folder
            agrees true named |> ignore

            let averaged =
                [
                    for name, tensor in entries do
                        let part = name[.. name.IndexOf '.' - 1]
                        struct (name, torch.zeros_like tensor)
                        struct ($"""ema_{part}.{name[part.Length + 1 ..].Replace(".", "")}""", tensor)
                ]

            let path = Path.Combine(folder, "trainer.safetensors")
            SafeTensorsWriter.Write(path, averaged)
            use ema = ImageTokenizers.Open(path, { TokenizerOptions.Default with Averages = true })
            agrees true ema |> ignore

            use half = ImageTokenizers.Open(at "movq.ckpt", { TokenizerOptions.Default with HalfPrecision = true })
            let share = agrees false half
            printfn $"movq_a in bf16: {share:P1} of the codes are equal"
            Expect.isGreaterThan share 0.85 "most codes are the same in bf16"))

let private streaming =
    testCase "unreadable pictures are named and left out, unless --strict; batches and GIFs change nothing" (fun () ->
        use folder = new Folder()

        let config =
            VqGanTokenizer
                { VqGan.moVq67M with
                    Base = 32L
                    Levels = [ 32L; 32L ]
                    Blocks = 1
                    EncoderAttention = []
                    DecoderAttention = []
                    Codes = 16L
                }

        use store =
            Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Stays) (ImageTokenizer.parameters config)

        Parameters.initialise (Random.ofSeed 5L) store

        do
            use _ = torch.NewDisposeScope()

            SafeTensorsWriter.Write(
                folder.At "t.safetensors",
                [ for slot in store.Slots -> struct (slot.Spec.Name, store.MasterOf slot.Spec.Name) ]
            )

        Directory.CreateDirectory(folder.At "in") |> ignore

        for i in 0..6 do
            let bytes = Array.init (16 * 12 * 3) (fun j -> byte (Random.bits (Random.ofSeed (int64 i)) (int64 j)))
            File.WriteAllBytes(folder.At $"in/p{i}.png", Pictures.EncodePng(Picture(16, 12, bytes)))

        File.WriteAllText(folder.At "in/p3.png", "no picture")

        let run batch strict out =
            ImageJob.Run(
                {
                    Action = ImageAction.Encode
                    Tokenizer = folder.At "t.safetensors"
                    TokenizerConfig = null
                    Ema = false
                    HalfPrecision = false
                    Batch = batch
                    MemoryBudget = Nullable()
                    Strict = strict
                    Input = [ folder.At "in" ]
                    Out = folder.At out
                    Json = false
                },
                CancellationToken.None
            )

            Running.parsed (File.ReadAllText(folder.At(out + "/codes.json")))

        let one, all = run 1 false "one", run 16 false "all"
        Expect.equal ((one.GetProperty "codes").ToString()) ((all.GetProperty "codes").ToString()) "the same codes"
        Expect.equal ((one.GetProperty "files").GetArrayLength()) 6 "six pictures"
        let lost = (one.GetProperty "left_out")[0]
        Expect.stringEnds ((lost.GetProperty "file").ToString()) "p3.png" "the seventh is named"
        use npy = NpyFile.Open(folder.At "one/codes.npy")
        Expect.equal npy.Shape [| 6L; 6L; 8L |] "pictures, rows, columns"
        Expect.equal npy.StoredType "<i8" "int64"
        Running.fails [ "p3.png" ] (fun () -> run 16 true "strict" |> ignore)
        Expect.isFalse (Directory.Exists(folder.At "strict")) "nothing is left of it")

let tests = testList "ImageTiles" [ tiles; golden; streaming ]
