module Hybrid.Tests.ShardTests

open System
open System.Collections.Generic
open System.Formats.Tar
open System.IO
open System.IO.Compression
open System.Text
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport

let private info = ShardInfo(300, 64, 2, 3, 96, "centre", "aa", "bb")

/// Pairs of a seed, some without text.
let private pairsOf (seed: int) (count: int) : (int[] * int[])[] =
    let stream = Random.ofSeed (int64 seed)

    [|
        for i in 0 .. count - 1 ->
            let own = Random.numbered (int64 i) stream

            Array.init (Random.below 6 own 0L) (fun j -> Random.below 300 own (int64 (10 + j))),
            Array.init 6 (fun j -> Random.below 64 own (int64 (20 + j)))
    |]

let private write (folder: string) (perShard: int) (prefix: string) (pairs: (int[] * int[])[]) =
    use writer = new ShardWriter(ShardManifest.Create(folder, true), info, perShard, prefix, "the source")

    for text, codes in pairs do
        writer.Add(ReadOnlySpan text, ReadOnlySpan codes)

    writer.Finish()

let private readAll (folder: string) =
    use reader = ShardReader.Open folder
    [| for i in 0L .. reader.Count - 1L -> reader.Pair(i).ToTuple() |]

/// A shard written as a plain safetensors file, with what a test wants to be wrong.
let private shard
    (folder: string)
    (codes: uint16[])
    (text: int[])
    (offsets: int64[])
    (count: int64)
    (metadata: (string * string) list)
    =
    use writer = new SafeTensorsWriter(Path.Combine(folder, "damaged.safetensors"))
    writer.AddColumn<uint16>("image_codes", 6L).Append(ReadOnlySpan codes)
    writer.AddColumn<int>("text_ids").Append(ReadOnlySpan text)
    writer.AddColumn<int64>("text_offsets").Append(ReadOnlySpan offsets)

    let usual =
        [
            "format", "hybrid.tokens.1"
            "text_vocabulary", "300"
            "image_vocabulary", "64"
            "grid_height", "2"
            "grid_width", "3"
            "image_size", "96"
            "crop", "centre"
            "text_tokenizer_sha256", "aa"
            "image_tokenizer_sha256", "bb"
        ]

    let all = Dictionary<string, string>()

    for key, value in usual @ metadata do
        all[key] <- value

    writer.Finish all

    File.WriteAllText(
        Path.Combine(folder, "manifest.jsonl"),
        $"{{\"file\":\"damaged.safetensors\",\"count\":{count},\"sha256\":\"00\"}}\n"
    )

let private tar (path: string) (members: (string * byte[]) list) =
    use stream = File.Create path
    use writer = new TarWriter(stream, TarEntryFormat.Ustar)

    for name, bytes in members do
        writer.WriteEntry(UstarTarEntry(TarEntryType.RegularFile, name, DataStream = new MemoryStream(bytes)))

let private gzip (text: string) : byte[] =
    use target = new MemoryStream()
    using (new GZipStream(target, CompressionMode.Compress)) (fun stream -> stream.Write(Encoding.UTF8.GetBytes(text).AsSpan()))
    target.ToArray()

let tests =
    testList
        "Shards"
        [
            testProperty
                "what is written is read back, whatever the size of a shard"
                (fun (seed: int) (count: byte) (perShard: byte) ->
                    inFolder (fun folder ->
                        let pairs = pairsOf seed (1 + int count % 60)
                        let perShard = 1 + int perShard % 20
                        write folder perShard "shard" pairs
                        use reader = ShardReader.Open folder
                        Expect.equal reader.Count (int64 pairs.Length) "count"
                        Expect.equal reader.Info info "metadata"
                        Expect.equal reader.Manifest.Entries.Count ((pairs.Length + perShard - 1) / perShard) "shards"
                        reader.Verify()

                        pairs
                        |> Array.iteri (fun i (text, codes) ->
                            let struct (t, c) = reader.Pair(int64 i)
                            Expect.equal t text "text"
                            Expect.equal (reader.TextLength(int64 i)) text.Length "length of the text"
                            Expect.equal c codes "codes")

                        Expect.throwsT<ArgumentOutOfRangeException>
                            (fun () -> reader.Pair reader.Count |> ignore)
                            "beyond the end"))

            testCase "a folder is continued, and several prefixes share a manifest" (fun () ->
                inFolder (fun folder ->
                    let pairs = pairsOf 3 30
                    write folder 4 "a" pairs[..9]
                    write folder 4 "b" pairs[10..19]
                    write folder 4 "a" pairs[20..]
                    Expect.equal (readAll folder) pairs "pairs"

                    Expect.stringContains
                        (refusal (fun () -> ShardManifest.Create folder |> ignore))
                        "has shards already"
                        "not continued unasked"

                    let line = File.ReadLines(Path.Combine(folder, "manifest.jsonl")) |> Seq.head
                    use json = Json.JsonDocument.Parse line
                    Expect.equal (json.RootElement.GetProperty("shard").GetString()) "a-000000" "open_lm's key"
                    Expect.equal (json.RootElement.GetProperty("num_sequences").GetInt64()) 4L "open_lm's count"
                    Expect.equal (json.RootElement.GetProperty("source").GetString()) "the source" "source"))

            testCase "an interrupted writer leaves whole shards only" (fun () ->
                inFolder (fun folder ->
                    let pairs = pairsOf 4 7

                    using (new ShardWriter(ShardManifest.Create folder, info, 5)) (fun writer ->
                        for text, codes in pairs do
                            writer.Add(ReadOnlySpan text, ReadOnlySpan codes))

                    Expect.equal (readAll folder) pairs[..4] "the first five"
                    Expect.equal (Directory.GetFiles folder).Length 2 "a shard and the manifest"))

            testCase "tokens outside their vocabulary are not written" (fun () ->
                inFolder (fun folder ->
                    use writer = new ShardWriter(ShardManifest.Create folder, info, 5)
                    let add (text: int[]) (codes: int[]) = fun () -> writer.Add(ReadOnlySpan text, ReadOnlySpan codes)
                    Expect.throwsT<ArgumentException> (add [| 300 |] (Array.zeroCreate 6)) "text"
                    Expect.throwsT<ArgumentException> (add [| -1 |] (Array.zeroCreate 6)) "negative text"
                    Expect.throwsT<ArgumentException> (add [||] [| 0; 0; 0; 0; 0; 64 |]) "code"
                    Expect.throwsT<ArgumentException> (add [||] (Array.zeroCreate 5)) "grid"))

            testCase "shards that lie are refused" (fun () ->
                let refused codes text offsets count metadata part =
                    inFolder (fun folder ->
                        shard folder codes text offsets count metadata
                        let message = refusal (fun () -> readAll folder |> ignore)
                        Expect.stringContains message part "the reason"
                        Expect.stringContains message "damaged" "the file")

                let codes = Array.create 12 1us
                refused codes [| 1; 2; 3 |] [| 0L; 1L; 3L |] 3L [] "the manifest"
                refused codes [| 1; 2; 3 |] [| 0L; 1L; 3L |] 2L [ "grid_width", "4" ] "[2, 8]"
                refused codes [| 1; 2; 3 |] [| 0L; 1L; 3L |] 2L [ "grid_width", "0" ] "grid_width"
                refused codes [| 1; 2; 3 |] [| 0L; 1L; 3L |] 2L [ "format", "other" ] "format"
                refused codes [| 1; 2; 3 |] [| 1L; 1L; 3L |] 2L [] "text_offsets"
                refused codes [| 1; 2; 3 |] [| 0L; 4L; 3L |] 2L [] "text_offsets"
                refused codes [| 1; 2; 3 |] [| 0L; 2L; 1L |] 2L [] "never down"
                refused codes [| 1; 2; 3 |] [| 0L; 1L; 2L |] 2L [] "ends at 2"
                refused codes [| 1; 300; 3 |] [| 0L; 1L; 3L |] 2L [] "text id 300"
                refused codes [| 1; -3; 3 |] [| 0L; 1L; 3L |] 2L [] "text id -3"
                refused (Array.create 12 64us) [| 1; 2; 3 |] [| 0L; 1L; 3L |] 2L [] "image code 64")

            testCase "manifests that lie are refused" (fun () ->
                let refused (text: string) part =
                    inFolder (fun folder ->
                        shard folder (Array.create 6 1us) [||] [| 0L; 0L |] 1L []
                        File.WriteAllText(Path.Combine(folder, "manifest.jsonl"), text)
                        Expect.stringContains (refusal (fun () -> readAll folder |> ignore)) part "the reason")

                refused "" "no shard"
                refused "{\"file\":\"damaged.safetensors\",\"count\":1,\"sha256\":\"0\"" "line 1"
                refused "\n[]" "line 2"
                refused "{\"file\":\"../damaged.safetensors\",\"count\":1,\"sha256\":\"0\"}" "same folder"
                refused "{\"file\":\"other.safetensors\",\"count\":1,\"sha256\":\"0\"}" "does not exist"
                refused "{\"file\":\"damaged.safetensors\",\"count\":-1,\"sha256\":\"0\"}" "count"
                let line = "{\"file\":\"damaged.safetensors\",\"count\":1,\"sha256\":\"0\"}\n"
                refused (line + line) "twice"

                inFolder (fun folder ->
                    shard folder (Array.create 6 1us) [||] [| 0L; 0L |] 1L []
                    use reader = ShardReader.Open folder
                    Expect.stringContains (refusal reader.Verify) "changed or damaged" "hash"))

            damagedFilesAreRefused
                "a damaged shard is read or refused, nothing else"
                ".safetensors"
                (fun () ->
                    let mutable bytes = [||]

                    inFolder (fun folder ->
                        write folder 100 "shard" (pairsOf 1 20)
                        bytes <- File.ReadAllBytes(Path.Combine(folder, "shard-000000.safetensors")))

                    bytes)
                (fun path ->
                    let folder = Path.GetDirectoryName path |> string

                    File.WriteAllText(
                        Path.Combine(folder, "manifest.jsonl"),
                        "{\"file\":\"damaged.safetensors\",\"count\":20,\"sha256\":\"0\"}"
                    )

                    readAll folder |> ignore)

            testCase "open_lm's tars and arrays of sequences" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "a.tar")

                    tar
                        path
                        [
                            "000.txt", Encoding.UTF8.GetBytes "[1, 2, '<|endoftext|>', \"it's\", -1]"
                            "001.json", Encoding.UTF8.GetBytes "[3, \"<|endoftext|>\", 4]"
                            "002.json.gz", gzip "[5, -2]"
                            "003.txt", Encoding.UTF8.GetBytes "[]"
                            "README", Encoding.UTF8.GetBytes "no sequence"
                        ]

                    use file = SequenceFiles.Open(path, 100)

                    Expect.equal
                        [ for i in 0L .. file.Count - 1L -> file.Row i ]
                        [ [| 1; 2; 0; 0; 99 |]; [| 3; 0; 4 |]; [| 5; 98 |]; [||] ]
                        "rows"

                    let array = Path.Combine(folder, "a.npy")
                    NpyFile.Write<int64>(array, ReadOnlyMemory [| 1L; 2L; -1L; 99L |], 2L, 2L)
                    use file = SequenceFiles.Open(array, 100)
                    Expect.equal [ for i in 0L .. file.Count - 1L -> file.Row i ] [ [| 1; 2 |]; [| 99; 99 |] ] "rows"

                    let refused (name: string) (text: string) part =
                        tar path [ name, Encoding.UTF8.GetBytes text ]
                        let message = refusal (fun () -> SequenceFiles.Open(path, 100).Dispose())
                        Expect.stringContains message part text
                        Expect.stringContains message path "the file"

                    refused "0.txt" "[1, 2" "']' is missing"
                    refused "0.txt" "[1, __import__('os')]" "Python list"
                    refused "0.txt" "[100]" "the id 100"
                    refused "0.txt" "['" "no end"
                    refused "0.txt" "[1] 2" "follows"
                    refused "0.json" "{}" "not a JSON list"
                    refused "0.json" "[1.5]" "1.5"
                    refused "0.json.gz" "[1]" "gzip"
                    refused "0.jpg" "[1]" "no member"
                    tar path [ "000.json.gz", gzip (String('0', 10_000_000)) ]

                    Expect.stringContains
                        (refusal (fun () -> SequenceFiles.Open(path, 100).Dispose()))
                        "unpacks to more"
                        "a bomb"))

            damagedFilesAreRefused
                "a damaged tar of sequences is read or refused, nothing else"
                ".tar"
                (fun () ->
                    let mutable bytes = [||]

                    inFolder (fun folder ->
                        let path = Path.Combine(folder, "a.tar")

                        tar
                            path
                            [
                                "0.txt", Encoding.UTF8.GetBytes "[1, 2, 'a', 3]"
                                "1.json", Encoding.UTF8.GetBytes "[1, 2]"
                                "2.json.gz", gzip "[1, 2]"
                            ]

                        bytes <- File.ReadAllBytes path)

                    bytes)
                (fun path ->
                    use file = SequenceFiles.Open(path, 100)
                    file.Row 0L |> ignore)
        ]
