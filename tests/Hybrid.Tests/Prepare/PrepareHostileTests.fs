/// Hostile and damaged inputs of preparation: counted by reason, never fatal unless asked, nothing read or written outside.
module Hybrid.Tests.PrepareHostileTests

open System
open System.Formats.Tar
open System.IO
open System.IO.Compression
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.PrepareSupport
open Hybrid.Tests.Running

let private utf8 (text: string) = Text.Encoding.UTF8.GetBytes text

/// gzip of one character many times over.
let private bomb (count: int) : byte[] =
    use packed = new MemoryStream()

    do
        use stream = new GZipStream(packed, CompressionLevel.Fastest, true)
        let block = Array.create 65536 (byte ' ')

        for _ in 1 .. count / block.Length do
            stream.Write(block, 0, block.Length)

    packed.ToArray()

/// A PNG whose header claims a size that its content does not have.
let private claim (width: int) (height: int) : byte[] =
    let bytes = Array.copy (snd (png 0))
    let place (at: int) (value: int) = Buffers.Binary.BinaryPrimitives.WriteInt32BigEndian(Span<byte>(bytes, at, 4), value)
    place 16 width
    place 20 height
    let mutable crc = 0xFFFFFFFFu

    for i in 12..28 do
        crc <- crc ^^^ uint32 bytes[i]

        for _ in 1..8 do
            crc <- if crc &&& 1u = 1u then (crc >>> 1) ^^^ 0xEDB88320u else crc >>> 1

    place 29 (int ~~~crc)
    bytes

let private hostile (path: string) =
    let bytes = snd (png 0)

    do
        use tar = new TarWriter(File.Create path)

        let file (name: string) (content: byte[]) =
            tar.WriteEntry(PaxTarEntry(TarEntryType.RegularFile, name, DataStream = new MemoryStream(content)))

        let link kind (name: string) (target: string) = tar.WriteEntry(PaxTarEntry(kind, name, LinkName = target))

        for name in [ "good0"; "../up"; "/root/absolute"; "a/../../b" ] do
            file (name + ".png") bytes
            file (name + ".txt") (utf8 "a red circle")

        link TarEntryType.SymbolicLink "passwd.txt" "/etc/passwd"
        file "passwd.png" bytes
        link TarEntryType.HardLink "hard.png" "/etc/passwd"
        file "hard.txt" (utf8 "a red circle")
        file "torn.png" bytes[.. bytes.Length / 2]
        file "torn.txt" (utf8 "a red circle")
        file "alone.png" bytes
        file "good1.png" bytes
        file "good1.txt" (utf8 "a red circle")
        file "good0.png" bytes
        file "good0.txt" (utf8 "again")
        file "latin.png" bytes
        file "latin.txt" [| 0xE9uy; 0xE8uy |]
        file "huge.png" (claim 10000 10000)
        file "huge.txt" (utf8 "a red circle")
        file "wide.png" (claim 2000000000 2)
        file "wide.txt" (utf8 "a red circle")
        file "packed.png" bytes
        file "packed.json.gz" (bomb 100_000_000)
        file "empty.png" [||]
        file "empty.txt" (utf8 "a red circle")
        file "words.txt" (utf8 "no picture")
        file "long.png" bytes
        file "long.txt" (Array.create 2_000_000 (byte 'a'))
        file "good2.png" bytes
        file "good2.txt" (utf8 "a red circle")
        file "cut.png" bytes

    // Within the last picture.
    use stream = File.Open(path, FileMode.Open)
    stream.SetLength(stream.Length - 1024L - 512L)

let private expected =
    [
        "../up", "UnsafePath"
        "/root/absolute", "UnsafePath"
        "a/../../b", "UnsafePath"
        "passwd.txt", "UnsafePath"
        "hard.png", "UnsafePath"
        "torn", "BadPicture"
        "alone", "MissingCaption"
        "good0", "DuplicateKey"
        "latin", "BadUtf8"
        "huge", "TooLarge"
        "wide", "BadPicture"
        "packed", "TooLarge"
        "empty", "BadPicture"
        "words", "MissingPicture"
        "long.txt", "TooLarge"
        "", "TruncatedTar"
    ]

let private counted =
    testCase "a tar of everything that can be wrong gives its good pairs, and a reason for each of the others" (fun () ->
        use folder = new Folder()
        material folder
        hostile (folder.At "hostile.tar")
        let before = Directory.GetFileSystemEntries(folder.At ".") |> Set.ofArray
        let wanted = { command folder "out" with Input = [| folder.At "hostile.tar" |] }
        let outcome = prepare wanted
        Expect.equal outcome.Pairs 3L "good pairs"
        let lines = dropLines (folder.At "out")
        Expect.equal lines expected "dropped.jsonl"

        Expect.equal
            (drops outcome)
            (expected
             |> List.countBy snd
             |> List.map (fun (name, count) -> Enum.Parse<DropReason> name, int64 count)
             |> List.sort)
            "by reason"

        Expect.equal
            (Set.ofArray (Directory.GetFileSystemEntries(folder.At ".")) - before)
            (set [ folder.At "./out" ])
            "nothing outside"
        // The same through gzip, whose length says nothing.
        use packed = new MemoryStream()

        do
            use stream = new GZipStream(packed, CompressionLevel.Fastest, true)
            stream.Write(ReadOnlySpan(File.ReadAllBytes(folder.At "hostile.tar")))

        File.WriteAllBytes(folder.At "hostile.tgz", packed.ToArray())
        prepare { wanted with Input = [| folder.At "hostile.tgz" |]; Out = folder.At "packed" } |> ignore
        Expect.equal (dropLines (folder.At "packed")) expected "packed")

let private strict =
    testCase "--strict ends at the first of them, in a sentence" (fun () ->
        use folder = new Folder()
        material folder

        let code, output, errors =
            program
                [
                    "prepare"
                    "--input"
                    folder.At "a.tar"
                    "--text-tokenizer"
                    folder.At "tokenizer.json"
                    "--image-tokenizer"
                    folder.At "image.safetensors"
                    "--image-size"
                    "16"
                    "--strict"
                    "--json"
                    "--out"
                    folder.At "strict"
                ]

        Expect.equal (code, output) (1, "") errors

        for part in [ "a.tar"; "000002"; "BadPicture"; "cut short"; "--strict" ] do
            Expect.stringContains errors part "the sentence"

        Expect.isFalse (Directory.Exists(folder.At "strict")) "nothing stays behind"
        let loose = prepare { command folder "loose" with Input = [| folder.At "a.tar" |] }
        Expect.equal loose.Pairs 5L "not asked for: not fatal")

let private reasons (source: string) =
    [
        for source in PairSource.Open source do
            for event in source.Read(PairReading()) do
                match Option.ofObj event.Pair, Option.ofObj event.Drop with
                | Some pair, _ -> pair.Key, "kept"
                | None, Some drop -> drop.Key, string drop.Reason
                | None, None -> failtest "neither a pair nor a drop"
    ]

let private links =
    testCase "links and names in folders and tables lead nowhere else" (fun () ->
        use folder = new Folder()
        let bytes = snd (png 0)

        for name in [ "in/a.png"; "in/b.png"; "in/real.png"; "out/secret.png" ] do
            Directory.CreateDirectory(string (Path.GetDirectoryName(folder.At name))) |> ignore
            File.WriteAllBytes(folder.At name, bytes)

        File.WriteAllText(folder.At "in/a.txt", "a")
        folder.Write("out/secret.txt", "a secret") |> ignore
        File.CreateSymbolicLink(folder.At "in/b.txt", folder.At "out/secret.txt") |> ignore
        File.CreateSymbolicLink(folder.At "in/c.png", folder.At "in/real.png") |> ignore
        File.WriteAllText(folder.At "in/c.txt", "c")
        Directory.CreateSymbolicLink(folder.At "in/door", folder.At "out") |> ignore

        Expect.equal
            (reasons (folder.At "in"))
            [ "a", "kept"; "b.txt", "UnsafePath"; "c", "kept"; "real", "MissingCaption" ]
            "a folder"

        File.WriteAllLines(
            folder.At "in/captions.jsonl",
            [
                for file in [ "a.png"; "door/secret.png"; "../out/secret.png"; folder.At "out/secret.png"; "./a.png" ] ->
                    $$"""{ "file": "{{file}}", "caption": "x" }"""
            ]
        )

        Expect.equal
            (reasons (folder.At "in") |> List.map snd)
            [ "kept"; "UnsafePath"; "UnsafePath"; "UnsafePath"; "kept" ]
            "a table")

let private longLines =
    testCase "lines and quotes without an end cost a record and no more memory than the limit" (fun () ->
        use folder = new Folder()
        File.WriteAllBytes(folder.At "a.png", snd (png 0))
        let huge = String('x', 20_000_000)

        folder.Write("captions.jsonl", $$"""{ "file": "{{huge}}" }{{"\n"}}{ "file": "a.png", "text": "kept" }""")
        |> ignore

        Expect.equal (reasons (folder.At "captions.jsonl")) [ "line 1", "TooLarge"; "a.png", "kept" ] "lines"
        folder.Write("c.csv", $"file,text\nb.png,\"{huge}\na.png,kept\n") |> ignore
        Expect.equal (reasons (folder.At "c.csv")) [ "record 2", "TooLarge"; "a.png", "kept" ] "quotes"
        // 200 MB of spaces in a few hundred kilobytes.
        File.WriteAllBytes(folder.At "d.csv.gz", bomb 400_000_000)
        fails [ "d.csv.gz"; "first line" ] (fun () -> reasons (folder.At "d.csv.gz") |> ignore))

let private badSource =
    testCase "a source that cannot be read costs its own pairs only" (fun () ->
        use folder = new Folder()
        material folder
        folder.Write("broken.parquet", "PAR1 not at all") |> ignore
        folder.Write("none.csv", "x,y\n1,2\n") |> ignore
        let inputs = [| folder.At "broken.parquet"; folder.At "a.tar"; folder.At "none.csv" |]
        let outcome = prepare { command folder "out" with Input = inputs }

        Expect.equal
            (outcome.Pairs, Seq.tryFind (fun (r, _) -> r = DropReason.BadSource) (drops outcome))
            (5L, Some(DropReason.BadSource, 2L))
            "the others"

        Expect.equal (prepare { command folder "out" with Input = inputs }).New 0L "known again"

        fails [ "no picture"; "none.csv"; "first line" ] (fun () ->
            prepare { command folder "n" with Input = [| folder.At "none.csv" |] } |> ignore)

        Expect.isFalse (Directory.Exists(folder.At "n")) "nothing stays behind")

let private damaged =
    testCase "damaged tars of every kind end nothing" (fun () ->
        use folder = new Folder()
        hostile (folder.At "h.tar")
        // Without the megabytes of one letter.
        let whole = File.ReadAllBytes(folder.At "h.tar")[..30000]

        for seed in 1..300 do
            File.WriteAllBytes(folder.At "d.tar", FormatsSupport.damage seed whole)
            Expect.isLessThan (reasons (folder.At "d.tar")).Length 40 "no more than there are")

let tests =
    TorchLibrary.Load()
    testList "PrepareHostile" [ counted; strict; links; longLines; badSource; damaged ]
