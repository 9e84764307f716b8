/// The layouts of pictures and captions that preparation reads.
module Hybrid.Tests.PrepareInputTests

open System
open System.Formats.Tar
open System.IO
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.PrepareSupport
open Hybrid.Tests.Running

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

let tests = testList "PrepareInputs" [ packed; longNames; img2dataset; coco; expansion; tokenTars ]
