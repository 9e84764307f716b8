/// The graphs of image tokenizers, and their kinds known by their tensors.
module Hybrid.Tests.ImageTokenizerTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.ImageTokenizerSupport
open TorchSharp

let private graphTests =
    testList
        "graph"
        [
            property "shapes, range and repetition" (fun (seed: int) (b: int) (h: int) (w: int) ->
                use _ = torch.NewDisposeScope()
                let seed, b, h, w = abs (seed % 10000), within 1 3 b, within 1 4 h, within 1 4 w
                let config, weights = tokenizer seed
                let images = pictures seed config b h w
                let codes = ImageTokenizer.encode config weights images
                let decoded = ImageTokenizer.decode config weights codes

                codes.shape = [| int64 b; int64 h; int64 w |]
                && codes.dtype = torch.ScalarType.Int64
                && codes.min().item<int64>() >= 0L
                && codes.max().item<int64>() < ImageTokenizer.codes config
                && decoded.shape = images.shape
                && decoded.min().item<float32>() >= 0f
                && decoded.max().item<float32>() <= 1f
                && same codes (ImageTokenizer.encode config weights images)
                && same decoded (ImageTokenizer.decode config weights codes))

            property "a batch is its pictures one by one" (fun (seed: int) (b: int) ->
                use _ = torch.NewDisposeScope()
                let seed, b = abs (seed % 10000), within 2 4 b
                let config, weights = tokenizer seed
                let images = pictures seed config b 3 2
                let codes = ImageTokenizer.encode config weights images
                let decoded = ImageTokenizer.decode config weights codes
                let one i (t: torch.Tensor) = t.narrow (0L, int64 i, 1L)

                let singles = torch.cat ([| for i in 0 .. b - 1 -> ImageTokenizer.encode config weights (one i images) |], 0L)

                let pictures = torch.cat ([| for i in 0 .. b - 1 -> ImageTokenizer.decode config weights (one i codes) |], 0L)

                // Another batch size may add in another order: a code may differ on a tie, a pixel in its last bits.
                codes.eq(singles).``to``(torch.float32).mean().item<float32>() > 0.99f
                && (pictures - decoded).abs().max().item<float32>() < 1e-5f)

            testCase "large batches go through in chunks" (fun () ->
                use _ = torch.NewDisposeScope()
                let config = PhotoTokenizer { smallPhotos 1 0 with CodeWidth = 2L; Codes = 5L }
                let weights = start 3 (ImageTokenizer.parameters config)
                let images = uniform (Random.ofSeed 8L) 0.0 1.0 [ 5L; 3L; 512L; 512L ]
                let codes = ImageTokenizer.encode config weights images
                let last = ImageTokenizer.encode config weights (images.narrow (0L, 4L, 1L))
                Expect.equal codes.shape [| 5L; 256L; 256L |] "all pictures are there"

                let agree = codes.narrow(0L, 4L, 1L).eq(last).``to``(torch.float32).mean().item<float32>()

                Expect.isGreaterThan agree 0.999f "the picture of the second chunk has its own codes"
                Expect.equal (ImageTokenizer.decode config weights codes).shape images.shape "and comes back whole")

            testCase "a residual block carries the rectified map" (fun () ->
                use _ = torch.NewDisposeScope()
                // On a black picture the first channel is -13.5 and the second 13.5 (27 taps of -0.5). The block adds half of
                // the second to the first: 6.75 on a rectified skip, but relu (-13.5 + 6.75) = 0 on a plain one.
                let config =
                    { smallPhotos 1 1 with
                        Encoder = [ { Width = 2L; Kernel = 4L } ]
                        EncoderStack = { Blocks = 1; InnerWidth = 1L }
                        CodeWidth = 1L
                        Codes = 2L
                    }

                let filter (shape: int64 list) (taps: (int64 list * float) list) =
                    let weight = torch.zeros (Array.ofList shape)

                    for index, value in taps do
                        weight.index_put_ (Scalars.Of(value), [| for i in index -> torch.TensorIndex.Single i |]) |> ignore

                    weight

                let block = "encoder._blocks.residual.residual_blocks.residual_0._block"

                let weights name =
                    match name with
                    | "encoder._blocks.conv_1.weight" ->
                        torch.cat ([| torch.ones [| 1L; 3L; 4L; 4L |]; -(torch.ones [| 1L; 3L; 4L; 4L |]) |], 0L)
                    | "pre_vq_conv.weight" -> filter [ 1L; 2L; 1L; 1L ] [ [ 0L; 0L; 0L; 0L ], 1.0 ]
                    | "vq_vae.codebook.weight" -> torch.tensor([| 0f; 6.75f |]).view(2L, 1L)
                    | name when name = block + ".conv_1.weight" -> filter [ 1L; 2L; 3L; 3L ] [ [ 0L; 1L; 1L; 1L ], 1.0 ]
                    | name when name = block + ".conv_2.weight" -> filter [ 2L; 1L; 1L; 1L ] [ [ 0L; 0L; 0L; 0L ], 0.5 ]
                    | name ->
                        let parameter = VqVae.parameters config |> List.find (fun p -> p.Name = name)
                        torch.zeros (Array.ofList parameter.Shape)

                let codes = ImageTokenizer.encode (PhotoTokenizer config) weights (torch.zeros [| 1L; 3L; 4L; 4L |])
                Expect.equal (codes.data<int64>().ToArray()) [| 1L; 1L; 1L; 1L |] "the skip is rectified")

            testCase "wrong input is refused with its shape" (fun () ->
                use _ = torch.NewDisposeScope()
                let config, weights = tokenizer 6

                let refused part (f: unit -> torch.Tensor) =
                    let error = Expect.throwsC (fun () -> f () |> ignore) id
                    Expect.isTrue (error :? ShapeException) $"a ShapeException, not {error.GetType().Name}"
                    Expect.stringContains error.Message part "the message says what"

                let zeros (shape: int64 list) = torch.zeros (Array.ofList shape)
                refused "[1, 3, 6, 8]" (fun () -> ImageTokenizer.encode config weights (zeros [ 1L; 3L; 6L; 8L ]))
                refused "[1, 1, 8, 8]" (fun () -> ImageTokenizer.encode config weights (zeros [ 1L; 1L; 8L; 8L ]))
                refused "[0, 3, 8, 8]" (fun () -> ImageTokenizer.encode config weights (zeros [ 0L; 3L; 8L; 8L ]))

                refused "Byte" (fun () ->
                    ImageTokenizer.encode config weights (torch.zeros ([| 1L; 3L; 8L; 8L |], dtype = torch.uint8)))

                refused "Float32" (fun () -> ImageTokenizer.decode config weights (zeros [ 1L; 2L; 2L ]))

                refused "0 to 22" (fun () ->
                    ImageTokenizer.decode config weights (torch.full ([| 1L; 2L; 2L |], Scalars.Of(23L), dtype = torch.int64))))

            property "calls leave no tensor behind but their result" (fun (seed: int) ->
                let seed = abs (seed % 10000)
                use _ = torch.NewDisposeScope()
                let config, weights = tokenizer seed
                let images = pictures seed config 2 2 2
                let live () = DisposeScopeManager.Statistics.TensorStatistics.ThreadTotalLiveCount
                let before = live ()
                let codes = ImageTokenizer.encode config weights images
                let afterEncode = live ()
                let decoded = ImageTokenizer.decode config weights codes
                let afterDecode = live ()
                ImageQuality.psnr images decoded |> ignore
                Codebook.histogram 23 codes |> ignore
                (before + 1L, before + 2L, before + 2L) = (afterEncode, afterDecode, live ()))

            testCase "PSNR" (fun () ->
                use _ = torch.NewDisposeScope()
                let zero = torch.zeros [| 2L; 3L; 4L; 4L |]
                let other = zero.clone ()
                other.narrow(0L, 1L, 1L).fill_(Scalars.Of(0.1)) |> ignore
                let values = ImageQuality.psnr zero other
                Expect.equal values[0] Double.PositiveInfinity "equal pictures"
                Expect.floatClose Accuracy.medium values[1] 20.0 "an error of a tenth is 20 dB")
        ]

let private inferTests =
    let entries config = ImageTokenizer.parameters config |> List.map (fun p -> p.Name, Array.ofList p.Shape)

    testList
        "infer"
        [
            testCase "the published MoVQGANs have their numbers of entries and parameters" (fun () ->
                for width, blocks, entries, total in
                    [ 128L, 2, 431, 67_832_495L; 128L, 4, 671, 101_614_255L; 256L, 2, 431, 270_669_103L ] do
                    let config =
                        { VqGan.moVq67M with
                            Base = width
                            Levels = [ width; 2L * width; 2L * width; 4L * width ]
                            Blocks = blocks
                        }

                    let parameters = VqGan.parameters config
                    Expect.equal parameters.Length entries "entries"
                    Expect.equal (parameters |> List.sumBy (fun p -> List.fold (*) 1L p.Shape)) total "parameters")

            property "a configuration is read back from its parameters, in any order" (fun (seed: int) ->
                let config, _ = tokenizer (abs (seed % 10000))
                let stream = Random.ofSeed (int64 seed)

                let shuffled =
                    entries config |> List.indexed |> List.sortBy (fun (i, _) -> Random.bits stream (int64 i)) |> List.map snd

                ImageTokenizer.infer (shuffled @ [ "discriminator.weight", [| 3L |] ]) = Ok config)

            property "an entry that is missing or of another shape is named" (fun (seed: int) (index: int) ->
                let config, _ = tokenizer (abs (seed % 10000))
                let entries = entries config
                let name, shape = entries[within 0 (entries.Length - 1) index]

                let without = ImageTokenizer.infer (entries |> List.filter (fun (other, _) -> other <> name))

                let misshaped =
                    entries
                    |> List.map (fun (other, s) -> if other = name then other, Array.append shape [| 1L |] else other, s)
                    |> ImageTokenizer.infer

                match without, misshaped with
                | Error missing, Error wrong -> missing.Contains $"'{name}'" && wrong.Contains $"'{name}'"
                | _ -> false)

            testCase "several faults are named at once, and a foreign file is said to be one" (fun () ->
                let config = PhotoTokenizer(smallPhotos 2 1)

                let broken =
                    entries config
                    |> List.filter (fun (name, _) -> name <> "pre_vq_conv.bias")
                    |> List.map (fun (name, shape) ->
                        if name = "decoder._blocks.conv_1.bias" then name, [| 99L |] else name, shape)

                match ImageTokenizer.infer broken, ImageTokenizer.infer [ "layers.0.weight", [| 3L; 3L |] ] with
                | Error text, Error foreign ->
                    Expect.stringContains text "'pre_vq_conv.bias', of shape [7], is missing" "the missing one"
                    Expect.stringContains text "'decoder._blocks.conv_1.bias' has shape [99]" "the misshaped one"
                    Expect.stringContains foreign "no entry of an image tokenizer" "nothing is known"
                | other -> failtest $"both must be refused: {other}")
        ]

let tests = testList "ImageTokenizer" [ graphTests; inferTests ]
