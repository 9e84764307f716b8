/// Tables of pictures and captions: Parquet, CSV and lines of JSON, whatever their columns are called.
module Hybrid.Tests.PrepareTableTests

open System
open System.IO
open Expecto
open Hybrid
open Hybrid.Runner.Formats
open Hybrid.Tests.PrepareSupport
open Hybrid.Tests.Running
open Parquet
open Parquet.Schema

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

let tests = testList "PrepareTables" [ tables; rows ]
