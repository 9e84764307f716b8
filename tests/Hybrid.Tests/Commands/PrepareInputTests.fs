/// The layouts of pictures and captions that preparation reads.
module Hybrid.Tests.PrepareInputTests

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
open Parquet
open Parquet.Schema

let private utf8 (text: string) = Text.Encoding.UTF8.GetBytes text

let private gzip (bytes: byte[]) : byte[] =
    use packed = new MemoryStream()

    do
        use stream = new GZipStream(packed, CompressionLevel.Fastest, true)
        stream.Write(bytes, 0, bytes.Length)

    packed.ToArray()

let private write (folder: Folder) (name: string) (bytes: byte[]) =
    let path = folder.At name
    Directory.CreateDirectory(string (Path.GetDirectoryName path)) |> ignore
    File.WriteAllBytes(path, bytes)

let private captionsOf (path: string) (root: string | null) =
    [
        for source in PairSource.Open(path, root) do
            for event in source.Read(PairReading()) do
                match Option.ofObj event.Pair, Option.ofObj event.Drop with
                | Some pair, _ ->
                    Expect.isNonEmpty (pair.Image.Read()) "bytes"
                    pair.Key, List.ofSeq pair.Captions
                | None, Some drop -> drop.Key, [ string drop.Reason ]
                | None, None -> failtest "neither a pair nor a drop"
    ]

let private packed =
    testCase "tars packed by gzip, members packed by gzip, and every kind of picture" (fun () ->
        use folder = new Folder()
        let caption, bytes = png 0

        writeTar
            (folder.At "plain.tar")
            [
                "./a.png", bytes
                "./a.txt.gz", gzip (utf8 caption)
                "b.png.gz", gzip bytes
                "b.json.gz", gzip (utf8 """{ "caption": "packed" }""")
                "c.gif", bytes
                "c.caption", utf8 "c"
                "d.bmp", bytes
                "d.txt", utf8 "\uFEFFd"
            ]

        let plain = captionsOf (folder.At "plain.tar") null
        Expect.equal plain [ "a", [ caption ]; "b", [ "packed" ]; "c", [ "c" ]; "d", [ "d" ] ] "plain"
        let tar = File.ReadAllBytes(folder.At "plain.tar")

        for name in [ "packed.tar.gz"; "packed.tgz" ] do
            write folder name (gzip tar)
            Expect.equal (captionsOf (folder.At name) null) plain name

        // Cut within: what came before stands.
        let cut = (gzip tar)[.. (gzip tar).Length / 2]
        write folder "cut.tar.gz" cut
        let found = captionsOf (folder.At "cut.tar.gz") null
        Expect.equal (List.last found) ("", [ "TruncatedTar" ]) "said"
        Expect.equal (List.truncate (found.Length - 2) found) (List.truncate (found.Length - 2) plain) "before the cut")

let private longNames =
    testCase "names of any length in every form of tar" (fun () ->
        use folder = new Folder()
        let key = String('k', 90) + "/" + String('l', 180)
        let bytes = snd (png 0)

        for format in [ TarEntryFormat.Pax; TarEntryFormat.Gnu; TarEntryFormat.Ustar; TarEntryFormat.V7 ] do
            let key =
                if format = TarEntryFormat.V7 then "short"
                elif format = TarEntryFormat.Ustar then key[..120]
                else key

            do
                use tar = new TarWriter(File.Create(folder.At "a.tar"), format)

                for name, content in [ key + ".png", bytes; key + ".txt", utf8 "x" ] do
                    let entry: TarEntry =
                        match format with
                        | TarEntryFormat.Pax -> PaxTarEntry(TarEntryType.RegularFile, name)
                        | TarEntryFormat.Gnu -> GnuTarEntry(TarEntryType.RegularFile, name)
                        | TarEntryFormat.Ustar -> UstarTarEntry(TarEntryType.RegularFile, name)
                        | _ -> V7TarEntry(TarEntryType.V7RegularFile, name)

                    entry.DataStream <- new MemoryStream(content)
                    tar.WriteEntry entry

            Expect.equal (captionsOf (folder.At "a.tar") null) [ key, [ "x" ] ] $"{format}")

let private img2dataset =
    testCase "img2dataset's folders: tars with tables beside them, and folders of files" (fun () ->
        use folder = new Folder()
        let bytes = snd (png 0)

        for shard in [ "00000"; "00001" ] do
            Directory.CreateDirectory(folder.At "tars") |> ignore

            writeTar
                (folder.At $"tars/{shard}.tar")
                [ $"{shard}0000.jpg", bytes; $"{shard}0000.txt", utf8 shard; $"{shard}0000.json", utf8 "{}" ]

            write folder $"tars/{shard}.parquet" [| 1uy |]
            write folder $"tars/{shard}_stats.json" (utf8 "{}")
            write folder $"files/{shard}.parquet" [| 1uy |]
            write folder $"files/{shard}_stats.json" (utf8 "{}")
            write folder $"files/{shard}/{shard}0000.jpg" bytes
            write folder $"files/{shard}/{shard}0000.txt" (utf8 shard)
            write folder $"files/{shard}/{shard}0000.json" (utf8 $$"""{ "caption": "{{shard}}" }""")
            write folder $"files/{shard}/{shard}0001.jpg" bytes

        let tars = captionsOf (folder.At "tars") null
        Expect.equal tars [ "000000000", [ "00000" ]; "000010000", [ "00001" ] ] "tars"
        Expect.equal (captionsOf (folder.At "tars/00001.parquet") null) [ tars[1] ] "the table beside a tar stands for it"

        Expect.equal
            (captionsOf (folder.At "files") null)
            [
                "000000000", [ "00000" ]
                "000000001", [ "MissingCaption" ]
                "000010000", [ "00001" ]
                "000010001", [ "MissingCaption" ]
            ]
            "files")

let private coco =
    testCase "COCO's annotations find their pictures where COCO keeps them" (fun () ->
        use folder = new Folder()
        let bytes = snd (png 0)

        let json =
            """{ "info": {}, "images": [ { "id": 9, "file_name": "000009.jpg" }, { "id": 25, "file_name": "000025.jpg" },
                   { "id": 30, "file_name": "000030.jpg" }, { "id": 34, "file_name": "../secret.jpg" }, { "file_name": "x.jpg" },
                   { "id": 9, "file_name": "000009.jpg" } ],
                 "annotations": [ { "id": 1, "image_id": 25, "caption": " a giraffe\n" }, { "id": 2, "image_id": 9, "caption": "food" },
                   { "id": 3, "image_id": 25, "caption": "two giraffes" }, { "id": 4, "image_id": 34, "caption": "s" },
                   { "id": 5, "image_id": 77, "caption": "nothing" }, { "id": 6, "image_id": 9 } ] }"""

        write folder "coco/annotations/captions_train2014.json" (utf8 json)
        write folder "secret.jpg" bytes

        let expected =
            [
                "000009.jpg", [ "food" ]
                "000025.jpg", [ "a giraffe"; "two giraffes" ]
                "000030.jpg", [ "MissingPicture" ]
                "../secret.jpg", [ "UnsafePath" ]
                "image 5", [ "BadRecord" ]
                "000009.jpg", [ "DuplicateKey" ]
                "image_id 77", [ "MissingPicture" ]
                "annotation 6", [ "BadRecord" ]
            ]

        for place in [ "train2014"; "images/train2014"; "images"; "." ] do
            for name in [ "000009.jpg"; "000025.jpg" ] do
                write folder $"coco/{place}/{name}" bytes

            Expect.equal (captionsOf (folder.At "coco/annotations/captions_train2014.json") null) expected place
            Expect.equal (captionsOf (folder.At "coco") null) expected $"{place}, by the folder"

            for name in [ "000009.jpg"; "000025.jpg" ] do
                File.Delete(folder.At $"coco/{place}/{name}")

        for name in [ "000009.jpg"; "000025.jpg" ] do
            write folder $"elsewhere/{name}" bytes

        Expect.equal (captionsOf (folder.At "coco") (folder.At "elsewhere")) expected "--image-root"

        // Karpathy's splits, and plain arrays of records.
        write
            folder
            "k/dataset_x.json"
            (utf8
                """{ "images": [ { "filepath": "v", "filename": "1.jpg", "sentences": [ { "raw": "one" }, { "raw": "two" } ] } ] }""")

        write folder "k/v/1.jpg" bytes
        Expect.equal (captionsOf (folder.At "k/dataset_x.json") null) [ "v/1.jpg", [ "one"; "two" ] ] "Karpathy"
        write folder "k/list.json" (utf8 """[ { "image": "v/1.jpg", "caption": "one" }, 3 ]""")
        Expect.equal (captionsOf (folder.At "k/list.json") null) [ "v/1.jpg", [ "one" ]; "record 2", [ "BadRecord" ] ] "a list")

/// A Parquet table of columns of text or bytes; null where a value is missing.
let private parquet (path: string) (columns: (string * obj) list) =
    let fields =
        [|
            for name, values in columns ->
                match values with
                | :? (byte[][]) -> DataField(name, typeof<byte[]>, Nullable true, Nullable()) :> Field
                | _ -> DataField<string>(name) :> Field
        |]

    let schema = ParquetSchema fields
    use stream = File.Create path

    (task {
        let! writer = ParquetWriter.CreateAsync(schema, stream)

        do
            use group = writer.CreateRowGroup()

            for field, (_, values) in Seq.zip schema.DataFields columns do
                match values with
                | :? (byte[][]) as bytes -> group.WriteAsync(field, bytes).Wait()
                | values -> group.WriteAsync(field, (values :?> string[])).Wait()

            group.CompleteValidate()

        do! (writer :> IAsyncDisposable).DisposeAsync()
    })
        .Wait()

/// A picture in a table, and its row.
type HeldImage() =
    member val bytes: byte[] | null = null with get, set
    member val path: string | null = null with get, set

type HeldRow() =
    member val image: HeldImage | null = null with get, set
    member val text: string | null = null with get, set

let private tables =
    testCase "Parquet tables name pictures by key or by file, or hold them" (fun () ->
        use folder = new Folder()
        let bytes = snd (png 0)
        write folder "00000/000000000.jpg" bytes
        write folder "000000001.png" bytes
        write folder "sub/x.png" bytes

        parquet
            (folder.At "00000.parquet")
            [
                "url", [| "http://a"; "http://b"; "http://c"; "http://d"; "http://e" |]
                "key", [| "000000000"; "000000001"; "000000002"; "000000003"; "../x" |]
                "caption", [| "one"; "two"; "three"; "four"; "five" |]
                "status", [| "success"; "success"; "failed_to_download"; "success"; "success" |]
            ]

        Expect.equal
            (captionsOf (folder.At "00000.parquet") null)
            [
                "000000000", [ "one" ]
                "000000001", [ "two" ]
                "000000002", [ "MissingPicture" ]
                "000000003", [ "MissingPicture" ]
                "../x", [ "UnsafePath" ]
            ]
            "by key"

        parquet (folder.At "names.parquet") [ "filepath", [| "sub/x.png"; "sub/y.png" |]; "TEXT", [| "x"; "y" |] ]

        Expect.equal
            (captionsOf (folder.At "names.parquet") null)
            [ "sub/x.png", [ "x" ]; "sub/y.png", [ "MissingPicture" ] ]
            "by file"

        parquet (folder.At "held.parquet") [ "jpg", [| bytes; [||] |]; "txt", [| "x"; "y" |] ]
        Expect.equal (captionsOf (folder.At "held.parquet") null) [ "0", [ "x" ]; "1", [ "MissingPicture" ] ] "held"
        // As Hugging Face keeps pictures; some values are absent on each level.
        let image i : HeldImage | null =
            if i = 2 then
                null
            else
                HeldImage(bytes = (if i = 1 then null else [| byte i; 7uy |]), path = $"{i}.png")

        let row i = HeldRow(image = image i, text = (if i = 3 then null else $"caption {i}"))

        do
            use stream = File.Create(folder.At "nested.parquet")
            Serialization.ParquetSerializer.SerializeAsync([| for i in 0..4 -> row i |], stream).Wait()

        Expect.equal
            (captionsOf (folder.At "nested.parquet") null)
            [
                "0 0.png", [ "caption 0" ]
                "1 1.png", [ "MissingPicture" ]
                "2", [ "MissingPicture" ]
                "3 3.png", [ "MissingCaption" ]
                "4 4.png", [ "caption 4" ]
            ]
            "nested"

        let held =
            [
                for source in PairSource.Open(folder.At "nested.parquet") do
                    for event in source.Read(PairReading()) do
                        match event.Pair with
                        | null -> ()
                        | pair -> pair.Image.Read()
            ]

        Expect.equal held [ [| 0uy; 7uy |]; [| 4uy; 7uy |] ] "each its own picture"

        parquet (folder.At "none.parquet") [ "a", [| "x" |] ]
        fails [ "none.parquet"; "caption" ] (fun () -> captionsOf (folder.At "none.parquet") null |> ignore)

        // Any damage ends in a refusal.
        let whole = File.ReadAllBytes(folder.At "00000.parquet")

        for seed in 1..150 do
            write folder "damaged.parquet" (FormatsSupport.damage seed whole)

            try
                captionsOf (folder.At "damaged.parquet") null |> ignore
            with :? InputException as refusal ->
                Expect.stringContains refusal.Message "damaged.parquet" "named")

let private expansion =
    testCase "globs and braces stand for several inputs" (fun () ->
        use folder = new Folder()

        for name in
            [
                "00008.tar"
                "00009.tar"
                "00010.tar"
                "deep/er/a.tar"
                "deep/b.tar"
                ".hidden/c.tar"
                "odd[1].tar"
                "notes.txt"
            ] do
            write folder name [||]

        let expands (pattern: string) (names: string list) =
            Expect.equal (List.ofSeq (PairInputs.Expand(folder.At pattern))) (names |> List.map folder.At) pattern

        expands "*.tar" [ "00008.tar"; "00009.tar"; "00010.tar"; "odd[1].tar" ]
        expands "0000?.tar" [ "00008.tar"; "00009.tar" ]
        expands "000[01][!9].tar" [ "00008.tar"; "00010.tar" ]
        expands "**/*.tar" [ "00008.tar"; "00009.tar"; "00010.tar"; "deep/b.tar"; "deep/er/a.tar"; "odd[1].tar" ]
        expands "d*/**/a.tar" [ "deep/er/a.tar" ]
        expands "{00008..00010}.tar" [ "00008.tar"; "00009.tar"; "00010.tar" ]
        expands "{00010,0000{9..8}}.tar" [ "00010.tar"; "00009.tar"; "00008.tar" ]
        expands "odd[1].tar" [ "odd[1].tar" ]

        Expect.equal
            (List.ofSeq (
                PairInputs.WithoutCompanions [| "d/1.parquet"; "d/1.tar"; "d/1_stats.json"; "d/2.parquet"; "d/2_stats.json" |]
            ))
            [ "d/1.tar"; "d/2.parquet"; "d/2_stats.json" ]
            "img2dataset's three files"

        fails [ "*.zip" ] (fun () -> PairInputs.Expand(folder.At "*.zip") |> ignore)
        fails [ "more than" ] (fun () -> PairInputs.Expand(folder.At "{0..9999999}") |> ignore))

let private rows =
    testCase "tables with other names for their columns, in capitals, packed, with captions on several rows" (fun () ->
        use folder = new Folder()
        let bytes = snd (png 0)

        for name in [ "1.jpg"; "2.jpg" ] do
            write folder name bytes

        write folder "captions.csv" (utf8 "image,comment_number,caption\n1.jpg,0,one\n1.jpg,1,two\n2.jpg,0,three\n")

        let read all =
            [
                for source in PairSource.Open(folder.At ".") do
                    for event in source.Read(PairReading(AllCaptions = all)) do
                        match event.Pair with
                        | null -> ()
                        | pair -> pair.Key, List.ofSeq pair.Captions
            ]

        Expect.equal (read true) [ "1.jpg", [ "one"; "two" ]; "2.jpg", [ "three" ] ] "all captions"
        Expect.equal (read false) [ "1.jpg", [ "one" ]; "2.jpg", [ "three" ] ] "the first"
        File.Delete(folder.At "captions.csv")
        write folder "metadata.jsonl.gz" (gzip (utf8 "{ \"FILE_NAME\": \"1.jpg\", \"TEXT\": \"one\" }\n"))
        Expect.equal (read false) [ "1.jpg", [ "one" ] ] "capitals, packed")

let private tokenTars =
    testCase "tars of tokens become arrays that training reads as it reads the tars" (fun () ->
        use folder = new Folder()
        folder.Write("tokenizer.json", WorldVocabulary.tokenizerJson) |> ignore

        writeTar
            (folder.At "t.tar")
            [
                "000.json.gz", gzip (utf8 "[1, 2, 3, -1]")
                "001.txt", utf8 "[4, 5, '<|endoftext|>', 6]"
                "002.json", utf8 "[1, 2]"
                "003.json", utf8 "{}"
            ]

        let wanted =
            { command folder "out" with
                Input = [| folder.At "t.tar" |]
                ImageTokenizer = null
                ImageSize = Nullable()
            }

        let outcome = prepare wanted
        Expect.equal (outcome.Pairs, drops outcome) (2L, [ DropReason.BadRecord, 1L; DropReason.OtherLength, 1L ]) "counts"
        Expect.equal (prepare wanted).New 0L "known again"
        use made = SequenceFiles.Open(folder.At "out/sequences-00000.npy", 50)
        Expect.equal [ for i in 0L .. made.Count - 1L -> List.ofArray (made.Row i) ] [ [ 1; 2; 3; 49 ]; [ 4; 5; 0; 6 ] ] "rows"
        material folder

        fails [ "t.tar"; "of their own" ] (fun () ->
            prepare { command folder "mixed" with Input = [| folder.At "a.tar"; folder.At "t.tar" |] } |> ignore)

        Expect.throwsT<ConfigurationException>
            (fun () -> prepare { wanted with Input = [| folder.At "a.tar" |]; Out = folder.At "none" } |> ignore)
            "pictures need a tokenizer")

let tests = testList "PrepareInputs" [ packed; longNames; img2dataset; coco; tables; expansion; rows; tokenTars ]
