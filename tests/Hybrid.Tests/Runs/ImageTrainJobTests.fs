/// Training an image tokenizer from pictures to a file that the other commands take.
module Hybrid.Tests.ImageTrainJobTests

open System
open System.Collections.Generic
open System.IO
open System.Text.Json
open System.Text.Json.Nodes
open System.Threading
open System.Threading.Tasks
open Expecto
open Hybrid
open Hybrid.Api
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.ImageTrainSupport
open Hybrid.Tests.Running

let private train (stop: CancellationToken) (command: ImageTrainCommand) =
    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
    ImageTrainJob.Run(ImageTrainJob.ReadPlan command, command.Out, command.Resume, stop, progress)

let private lines (path: string) : JsonObject list =
    [ for line in File.ReadAllLines path -> (JsonNode.Parse line |> nonNull).AsObject() ]

let private number (json: JsonObject) (key: string) : float = (json[key] |> nonNull).GetValue<float>()

/// The mean squared error of painting every held-out picture in its own mean colour.
let private flat (pictures: byte[] seq) : float =
    pictures
    |> Seq.averageBy (fun pixels ->
        Seq.averageBy
            (fun channel ->
                let values = [ for i in channel..3 .. pixels.Length - 1 -> float pixels[i] / 255.0 ]
                let mean = List.average values
                values |> List.averageBy (fun value -> (value - mean) ** 2.0))
            [ 0..2 ])

let private learns =
    testCase
        "scenes are learnt: the error is less than half of that of flat colour, and other commands take the result"
        (fun () ->
            use folder = new Folder()
            let pictures = scenes folder 60
            let out = folder.At "run"

            let settings =
                [
                    "schedule.steps", "400"
                    "checkpoint.everySteps", "200"
                    "model.width", "32"
                    "model.codes", "256"
                    "data.crop", "random"
                    "data.flip", "true"
                ]

            let outcome = train CancellationToken.None (command [ pictures ] out settings)
            let heldOut = outcome.HeldOut |> nonNull

            let shrunk =
                [
                    for i in 0..59 ->
                        Pictures.CentreCropResize(Picture(64, 64, snd (World.pair 11L Split.Train (int64 i))), 32).Pixels
                ]

            Expect.equal heldOut.Pictures 12 "a fifth is held out"
            let error = 10.0 ** (-heldOut.Psnr / 10.0)
            Expect.isLessThan error (flat shrunk / 2.0) $"half of the error of flat colour: {heldOut.Words}"
            Expect.isGreaterThan heldOut.Use.Used 100 "codes in use"
            Expect.isTrue (heldOut.Ssim > 0.5 && heldOut.Ssim < 1.0) "SSIM"

            // What a run leaves behind.
            let metrics, evaluations =
                lines (Path.Combine(out, "metrics.jsonl")), lines (Path.Combine(out, "evaluations.jsonl"))

            Expect.equal [ for line in metrics -> int (number line "step") ] [ 0..399 ] "a line a step"
            Expect.isLessThan (number (List.last metrics) "l2") (0.5 * number metrics[10] "l2") "it falls"
            Expect.equal [ for line in evaluations -> int (number line "step") ] [ 200; 400 ] "two evaluations"
            Expect.isGreaterThan (number evaluations[1] "psnr") (number evaluations[0] "psnr") "the second is better"
            let figure = Pictures.Read(Path.Combine(out, "figures", "reconstruction-0000400.png"))
            Expect.equal (figure.Width, figure.Height) (8 * 34 - 2, 4 * 34 - 2) "two rows of pictures over their reconstructions"
            let checkpoint = Path.Combine(out, "checkpoints", "step-0000400", "image_tokenizer.safetensors")

            Expect.equal
                (File.ReadAllBytes(Path.Combine(out, "image_tokenizer.safetensors")))
                (File.ReadAllBytes checkpoint)
                "the newest is kept"

            // The program reads it: reconstruct as the training measured, prepare, inspect.
            File.WriteAllBytes(folder.At "one.png", Pictures.EncodePng(Picture(32, 32, shrunk[3])))

            let back =
                result [ "image"; "reconstruct"; "--tokenizer"; out; "--input"; folder.At "one.png"; "--out"; folder.At "back" ]

            use tokenizer = ImageTokenizers.Open out
            let codes = tokenizer.Encode([| shrunk[3] |], 32, 32)
            let quality = PictureMeasures.Quality([| shrunk[3] |], tokenizer.Decode(codes, 8, 8), 32, 32)
            let value (name: string) = (back.GetProperty name).GetDouble()

            Expect.equal
                (value "psnr_mean", value "ssim_mean", value "l1_mean")
                (quality[0].Psnr, quality[0].Ssim, quality[0].L1)
                "quality"

            Expect.equal (back.GetProperty("ssim").EnumerateArray() |> Seq.head).ValueKind JsonValueKind.Number "of each picture"
            let book = back.GetProperty "codebook"
            Expect.equal ((book.GetProperty "used").GetInt32()) (codes[0] |> Array.distinct |> Array.length) "codes"

            Expect.floatClose
                Accuracy.high
                ((book.GetProperty "perplexity").GetDouble())
                (2.0 ** (book.GetProperty "entropy_bits").GetDouble())
                "perplexity"

            folder.Write("captions.jsonl", """{"file": "one.png", "caption": "a scene"}""") |> ignore
            folder.Write("tokenizer.json", WorldVocabulary.tokenizerJson) |> ignore

            let shards =
                result
                    [
                        "prepare"
                        "--input"
                        folder.At "captions.jsonl"
                        "--text-tokenizer"
                        folder.At "tokenizer.json"
                        "--image-tokenizer"
                        out
                        "--image-size"
                        "32"
                        "--out"
                        folder.At "shards"
                    ]

            Expect.equal ((shards.GetProperty "image_vocabulary").GetInt32()) 256 "shards are made of its codes"
            let found = result [ "inspect"; out ]
            Expect.equal ((found.GetProperty "step").GetInt32()) 400 "inspect knows the run"
            let described = result [ "inspect"; Path.Combine(out, "run.json") ]
            Expect.equal ((described.GetProperty "stride").GetInt32()) 4 "and its configuration")

/// Every file of a run that must be the same, with its bytes; rates and times are left out.
let private content (out: string) =
    let state = Path.Combine(out, "checkpoints", "step-0000012")

    [
        for file in [ "image_tokenizer.safetensors"; "training.safetensors"; "state.json" ] do
            file, Convert.ToHexString(File.ReadAllBytes(Path.Combine(state, file)))
        for file in [ "metrics.jsonl"; "evaluations.jsonl" ] do
            for line in lines (Path.Combine(out, file)) do
                for name in [ "picturesPerSecond"; "memoryBytes"; "time" ] do
                    line.Remove name |> ignore

                file, line.ToJsonString()
    ]

let private resumes =
    let check name settings =
        testCase $"{name}: a run that stopped goes on to the same bits" (fun () ->
            use folder = new Folder()
            let pictures = scenes folder 30
            let settings = settings @ [ "schedule.steps", "12"; "checkpoint.everySteps", "5" ]
            let whole = folder.At "whole"
            train CancellationToken.None (command [ pictures ] whole settings) |> ignore

            // As a run that was killed after its second checkpoint, with lines that are not to stay.
            let killed = folder.At "killed"
            let again = { command [ pictures ] killed settings with Resume = true }
            train CancellationToken.None again |> ignore
            Directory.Delete(Path.Combine(killed, "checkpoints", "step-0000012"), true)
            File.WriteAllText(Path.Combine(killed, "checkpoints", "latest"), "step-0000010\n")
            train CancellationToken.None again |> ignore
            Expect.equal (content killed) (content whole) "after a kill"

            // Asked to stop wherever it happens to be, until it comes to the end.
            let stopped = folder.At "stopped"

            let rec carry attempts =
                use stop = new CancellationTokenSource(TimeSpan.FromMilliseconds(float (60 * attempts)))

                let ended =
                    try
                        train stop.Token { again with Out = stopped } |> ignore
                        true
                    with :? OperationCanceledException ->
                        false

                if not ended then
                    carry (attempts + 1)

            carry 1
            let same = content stopped |> List.filter (fun (file, _) -> file <> "evaluations.jsonl")
            Expect.equal same (content whole |> List.filter (fun (file, _) -> file <> "evaluations.jsonl")) "after every stop"
            Expect.isFalse (File.Exists(stopped + ".pictures.partial")) "nothing is left behind")

    [
        check "moving averages" []
        check
            "gradients, discriminator, bf16"
            [
                "codebook.mover", "gradient"
                "adversarial.weight", "0.1"
                "adversarial.layers", "2"
                "adversarial.width", "8"
                "adversarial.startStep", "3"
                "precision", "bf16"
                "batch.microBatch", "3"
                "data.crop", "random"
            ]
    ]

let private away =
    testCase "a run whose directory is away when it saves waits for it, and loses nothing" (fun () ->
        use folder = new Folder()
        let pictures = scenes folder 30
        let settings = [ "schedule.steps", "12"; "checkpoint.everySteps", "2" ]
        train CancellationToken.None (command [ pictures ] (folder.At "whole") settings) |> ignore

        let mover =
            Task.Run(fun () ->
                while not (File.Exists(folder.At "run/checkpoints/latest")) do
                    Thread.Sleep 1

                Directory.Move(folder.At "run", folder.At "elsewhere")
                Thread.Sleep 600

                if Directory.Exists(folder.At "run") then
                    failtest "another directory was made where the run was"

                Directory.Move(folder.At "elsewhere", folder.At "run"))

        train CancellationToken.None (command [ pictures ] (folder.At "run") settings) |> ignore
        mover.Wait()
        Expect.equal (content (folder.At "run")) (content (folder.At "whole")) "every line, and the same bits")

let private refused (parts: string list) (command: ImageTrainCommand) =
    fails parts (fun () -> train CancellationToken.None command |> ignore)

let private refusals =
    testList
        "refusals"
        [
            testCase "a run is not overwritten, nor gone on with by another configuration or other pictures" (fun () ->
                use folder = new Folder()
                let pictures = scenes folder 10
                let first = command [ pictures ] (folder.At "run") [ "schedule.steps", "2" ]
                train CancellationToken.None first |> ignore
                refused [ "exists and is not empty"; "--resume auto" ] first
                let resumed = { first with Resume = true }

                refused
                    [ "model.codes: 64 in the run, 32 now" ]
                    { resumed with Set = [| yield! first.Set; KeyValuePair("model.codes", "32") |] }
                // One that is done is done: nothing changes.
                let before = File.ReadAllBytes(folder.At "run/image_tokenizer.safetensors")
                train CancellationToken.None resumed |> ignore
                Expect.equal (File.ReadAllBytes(folder.At "run/image_tokenizer.safetensors")) before "the same"
                File.WriteAllBytes(Path.Combine(pictures, "new.png"), png 99)
                refused [ "not those that the run was begun with" ] resumed)

            testCase "too few pictures are refused, and nothing is left of the attempt" (fun () ->
                use folder = new Folder()
                let pictures = scenes folder 1
                refused [ "1 picture is too few"; "data.heldOutShare" ] (command [ pictures ] (folder.At "run") [])
                folder.Write("pictures/000.png", "no picture") |> ignore
                refused [ "no picture was found"; "dropped 1: BadPicture" ] (command [ pictures ] (folder.At "run") [])
                refused [ "does not exist" ] (command [ folder.At "nowhere" ] (folder.At "run") [])
                Directory.CreateDirectory(folder.At "empty") |> ignore
                refused [ "holds no picture" ] (command [ folder.At "empty" ] (folder.At "run") [])
                Expect.isFalse (Path.Exists(folder.At "run")) "no directory"
                Expect.isFalse (Path.Exists(folder.At "run.pictures.partial")) "no file")

            testCase "the program says what is wrong with a configuration, all at once" (fun () ->
                use folder = new Folder()
                let pictures = scenes folder 2
                let start = [ "image"; "train"; "--input"; pictures; "--out"; folder.At "run" ]
                let code, _, errors = program (start @ [ "--set"; "batch.pictures"; "0"; "--set"; "loss.lpips"; "1" ])
                Expect.equal code 2 "a configuration's exit code"

                for part in
                    [ "imageSize: is missing (--image-size N gives it)"; "batch.pictures: "; "loss.lpips: there is no such key" ] do
                    Expect.stringContains errors part "the sentence"

                let code, _, errors = program (start @ [ "--config"; folder.At "none.json" ])
                Expect.equal code 2 "a missing file"
                Expect.stringContains errors "none.json" "is named"
                Expect.isFalse (Path.Exists(folder.At "run")) "no directory")

            testCase "a gradient that is never finite ends the run with a sentence" (fun () ->
                use folder = new Folder()

                let settings =
                    [
                        "loss.l2", "1e6"
                        "loss.l1", "1e6"
                        "codebook.commitment", "1e6"
                        "optimizer.learningRate", "1e6"
                        "clipNorm", "null"
                    ]

                refused
                    [ "not finite in 20 steps"; "optimizer.learningRate" ]
                    (command [ scenes folder 10 ] (folder.At "run") settings)

                Expect.isFalse (File.Exists(folder.At "run/image_tokenizer.safetensors")) "no tokenizer is kept")
        ]

let tests = testList "ImageTrainJob" [ learns; yield! resumes; away; refusals ]
