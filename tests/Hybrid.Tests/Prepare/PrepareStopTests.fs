/// Preparation that is stopped, goes on, and makes the same bytes whatever the threads; and what it does with long captions.
module Hybrid.Tests.PrepareStopTests

open System
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.PrepareSupport
open Hybrid.Tests.Running

/// Two tars and a folder, with something wrong here and there.
let private many (folder: Folder) (count: int) =
    for tar in 0..1 do
        writeTar
            (folder.At $"m{tar}.tar")
            [
                for i in 0 .. count - 1 do
                    yield! (if i % 11 = 5 then broken i else pair i)

                    if i % 17 = 3 then
                        "alone", [||]

                    if i % 13 = 7 then
                        $"x{i:D6}.png", snd (png i)
            ]

    Directory.CreateDirectory(folder.At "loose") |> ignore

    for i in 0 .. count / 4 do
        for name, bytes in pair i do
            File.WriteAllBytes(folder.At $"loose/{name}", bytes)

    // Nothing of this one can be used.
    writeTar (folder.At "none.tar") [ "a.png", snd (png 0); "b.png", snd (png 1) ]
    folder.Write("tokenizer.json", WorldVocabulary.tokenizerJson) |> ignore
    writeTokenizer (folder.At "image.safetensors") 1L |> ignore

let private inputs (folder: Folder) = [ folder.At "m0.tar"; folder.At "none.tar"; folder.At "loose"; folder.At "m1.tar" ]

let private arguments (folder: Folder) (out: string) =
    [ "prepare"; "--input" ]
    @ inputs folder
    @ [
        "--text-tokenizer"
        folder.At "tokenizer.json"
        "--image-tokenizer"
        folder.At "image.safetensors"
        "--image-size"
        "16"
        "--pairs-per-shard"
        "4"
        "--out"
        folder.At out
    ]

let private lines (path: string) = if File.Exists path then File.ReadAllLines(path).Length else 0

/// Runs the program and kills it (SIGKILL) once the manifest has some lines and a moment has passed; whether it still ran.
let private killed (arguments: string list) (manifest: string) (wanted: int) (moment: int) : bool =
    use running = started [] arguments
    let output, errors = running.StandardOutput.ReadToEndAsync(), running.StandardError.ReadToEndAsync()

    while not running.HasExited && lines manifest < wanted do
        Thread.Sleep 1

    Thread.Sleep moment
    let alive = not running.HasExited

    if alive then
        running.Kill()

    running.WaitForExit()
    ignore (output.Result, errors.Result)
    alive

let private kills =
    testCase
        "killed anywhere, it goes on without losing or doubling a pair: the bytes are those of a run that was not stopped"
        (fun () ->
            use folder = new Folder()
            many folder 150
            result (arguments folder "whole") |> ignore
            let whole = content (folder.At "whole")
            let total = lines (folder.At "whole/manifest.jsonl")
            let stream = Random.ofSeed 5L
            let mutable interrupted, round = 0, 0
            let manifest = folder.At "stopped/manifest.jsonl"

            while round < 6 && lines manifest < total do
                let next = lines manifest + 1 + Random.below (max 1 (total / 6)) stream (int64 (2 * round))

                if
                    killed
                        (arguments folder "stopped")
                        manifest
                        (min next total)
                        (Random.below 25 stream (int64 (2 * round + 1)))
                then
                    interrupted <- interrupted + 1

                round <- round + 1

            Expect.isGreaterThanOrEqual interrupted 3 "it was killed within"
            let last = result (arguments folder "stopped")
            Expect.equal (content (folder.At "stopped")) whole "the same files and bytes"
            let first = result (arguments folder "whole")
            Expect.equal (last.GetProperty("dropped").ToString()) (first.GetProperty("dropped").ToString()) "what was dropped"
            Expect.equal (last.GetProperty("examples").ToString()) (first.GetProperty("examples").ToString()) "where"
            Expect.equal (first.GetProperty("new").GetInt64()) 0L "nothing was left")

let private threads =
    testCase "the bytes do not depend on the number of threads, nor the pairs on the shards' size" (fun () ->
        use folder = new Folder()
        many folder 100

        let wanted =
            { command folder "one" with
                Input = List.toArray (inputs folder)
                Workers = Nullable 1
                PairsPerShard = 70
            }

        let one = prepare wanted
        prepare { wanted with Out = folder.At "five"; Workers = Nullable 5 } |> ignore
        Expect.equal (content (folder.At "five")) (content (folder.At "one")) "threads"
        let small = prepare { wanted with Out = folder.At "small"; PairsPerShard = 3 }
        Expect.equal (pairsOf (folder.At "small")) (pairsOf (folder.At "one")) "pairs"
        Expect.equal (drops small) (drops one) "dropped"
        Expect.equal (dropLines (folder.At "small")) (dropLines (folder.At "one")) "the list"
        use reader = ShardReader.Open(folder.At "small")
        Expect.isTrue (reader.Manifest.Entries |> Seq.forall (fun entry -> entry.Count <= 3L)) "no shard is larger"

        Expect.isTrue
            (reader.Manifest.Entries |> Seq.exists (fun entry -> entry.Count = 0L))
            "the source without a pair is known as read")

let private changed =
    testCase "an input that was changed is noticed, and so are two calls at once" (fun () ->
        use folder = new Folder()
        many folder 8
        let wanted = { command folder "out" with Input = List.toArray (inputs folder) }
        prepare wanted |> ignore
        let before = content (folder.At "out")
        let refuses parts = fails (folder.At "out" :: parts) (fun () -> prepare wanted |> ignore)
        let moved = File.GetLastWriteTimeUtc(folder.At "m1.tar")
        File.SetLastWriteTimeUtc(folder.At "m1.tar", moved.AddSeconds 5.0)
        refuses [ "m1.tar"; "as it was"; "another --out" ]
        File.SetLastWriteTimeUtc(folder.At "m1.tar", moved)
        File.WriteAllBytes(folder.At "loose/new.png", snd (png 3))
        refuses [ "loose"; "as it was" ]
        File.Delete(folder.At "loose/new.png")

        fails [ "m0.tar is missing" ] (fun () ->
            prepare { wanted with Input = wanted.Input |> Seq.tail |> Seq.toArray } |> ignore)

        fails [ "captions"; "\"first\""; "\"all\"" ] (fun () -> prepare { wanted with AllCaptions = true } |> ignore)

        do
            use _ = new FileStream(folder.At "out/.prepare.lock", FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None)
            refuses [ "another call" ]

        File.Delete(folder.At "out/.prepare.lock")
        Expect.equal (content (folder.At "out")) before "as it was"
        Expect.equal (prepare wanted).New 0L "and goes on")

let private remains =
    testCase "a call that was killed before it had begun is no obstacle" (fun () ->
        use folder = new Folder()
        material folder
        Directory.CreateDirectory(folder.At "out") |> ignore
        folder.Write("out/.prepare.lock", "") |> ignore
        folder.Write("out/.prepare.json.0123.partial", "{") |> ignore
        Expect.equal (prepare (command folder "out")).Pairs 9L "pairs"
        Expect.isFalse (File.Exists(folder.At "out/.prepare.json.0123.partial")) "cleared away")

let private unwritable =
    testCase "a place that cannot be written is said, and nothing is half-written" (fun () ->
        use folder = new Folder()
        material folder
        let file = folder.Write("file", "mine")

        fails [ file; "cannot be written" ] (fun () ->
            prepare { command folder "x" with Out = Path.Combine(file, "out") } |> ignore)

        fails [ file; "is a file" ] (fun () -> prepare { command folder "x" with Out = file } |> ignore)
        Expect.equal (File.ReadAllText file) "mine" "untouched")

let private long =
    testCase "captions that are too long lose their ends or are dropped, and are counted" (fun () ->
        use folder = new Folder()
        material folder
        let long = String.replicate 30 "a red circle "

        writeTar
            (folder.At "c.tar")
            [
                "0.png", snd (png 0)
                "0.json", Text.Encoding.UTF8.GetBytes $$"""{ "captions": [ "a red circle", "{{long}}", "a blue star" ] }"""
                "1.png", snd (png 1)
                "1.txt", Text.Encoding.UTF8.GetBytes long
            ]

        let wanted = { command folder "first" with Input = [| folder.At "c.tar" |]; MaxTextTokens = Nullable 10 }
        let first = prepare wanted
        Expect.equal (first.Pairs, first.Truncated, drops first) (2L, 1L, []) "first"
        let kept = pairsOf (folder.At "first")
        Expect.equal (kept |> List.map (fun (ids, _) -> ids.Length)) [ 3; 10 ] "lengths"
        let whole = WorldVocabulary.encode long
        Expect.equal (fst kept[1]) whole[..9] "the beginning is kept"
        let all = prepare { wanted with Out = folder.At "all"; AllCaptions = true }
        Expect.equal (all.Pairs, all.Truncated) (4L, 2L) "all"
        let pairs = pairsOf (folder.At "all")
        Expect.equal (pairs |> List.map (fun (ids, _) -> ids.Length)) [ 3; 10; 3; 10 ] "lengths of all"
        Expect.equal (snd pairs[0], snd pairs[1]) (snd pairs[2], snd pairs[0]) "one picture, its codes each time"

        let dropped =
            prepare { wanted with Out = folder.At "dropped"; AllCaptions = true; DropLongText = true; Strict = true }

        Expect.equal (dropped.Pairs, drops dropped) (2L, [ DropReason.LongText, 2L ]) "dropped by wish: not a fault"
        Expect.equal (dropLines (folder.At "dropped")) [ "0", "LongText"; "1", "LongText" ] "named"
        let free = prepare { wanted with Out = folder.At "free"; MaxTextTokens = Nullable() }
        let lengths = pairsOf (folder.At "free") |> List.map (fun (ids, _) -> ids.Length)
        Expect.equal (free.Truncated, lengths) (0L, [ 3; 90 ]) "1,152 positions hold 1,142 beside four codes")

let tests =
    TorchLibrary.Load()
    testList "PrepareStops" [ kills; threads; changed; remains; unwritable; long ]
