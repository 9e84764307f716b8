module Hybrid.Tests.PairSourceTests

open System
open System.Collections.Generic
open System.Formats.Tar
open System.IO
open System.Text
open Expecto
open Hybrid.Runner.Formats
open Hybrid.Tests.FormatsSupport

let private utf8 (text: string) = Encoding.UTF8.GetBytes text

let private tarBytes (members: (string * byte[]) list) : byte[] =
    use stream = new MemoryStream()

    using (new TarWriter(stream, TarEntryFormat.Pax, true)) (fun writer ->
        for name, bytes in members do
            writer.WriteEntry(PaxTarEntry(TarEntryType.RegularFile, name, DataStream = new MemoryStream(bytes))))

    stream.ToArray()

let private readAll (path: string) : PicturePair list * (DropReason * int64) list =
    let events =
        [
            for source in PairSource.Open path do
                yield! source.Read(PairReading())
        ]

    (events |> List.choose (fun event -> Option.ofObj event.Pair)),
    (events
     |> List.choose (fun event -> Option.ofObj event.Drop)
     |> List.countBy (fun drop -> drop.Reason)
     |> List.map (fun (reason, count) -> reason, int64 count)
     |> List.sortBy (fun (reason, _) -> int reason))

let private readTar (bytes: byte[]) =
    let mutable result = [], []

    inFolder (fun folder ->
        let path = Path.Combine(folder, "a.tar")
        File.WriteAllBytes(path, bytes)
        result <- readAll path)

    result

let private summary (pairs: PicturePair list) =
    pairs |> List.map (fun pair -> pair.Key, Encoding.UTF8.GetString(pair.Image.Read()), List.ofSeq pair.Captions)

let private picture (name: string) = utf8 $"picture {name}"

let private sample =
    lazy
        tarBytes
            [
                "a.jpg", picture "a"
                "a.txt", utf8 " a dog \n"
                "d/b.x.png", picture "not wanted"
                "d/b.PNG", picture "b"
                "d/b.json", utf8 "{\"caption\":\"a cat\",\"captions\":[\"a cat\",\"two cats\",3]}"
                "c.webp", picture "c"
                "e.txt", utf8 "nothing to see"
                "f.jpeg", picture "f"
                "f.txt", [| 0xFFuy; 0xFEuy |]
                "g.jpg", picture "g"
                "g.json", utf8 "{\"caption\":"
                "h.jpg", picture "h"
                "h.txt", utf8 "  "
                "a.jpg", picture "a again"
                "a.txt", utf8 "again"
                "i.jpg", picture "i"
                "i.txt", utf8 "last"
            ]

let tests =
    testList
        "PairSource"
        [
            testCase "pairs of a tar, and what is dropped" (fun () ->
                let pairs, drops = readTar sample.Value

                Expect.equal
                    (summary pairs)
                    [ "a", "picture a", [ "a dog" ]; "d/b", "picture b", [ "a cat"; "two cats" ]; "i", "picture i", [ "last" ] ]
                    "pairs"

                Expect.equal
                    drops
                    [
                        DropReason.MissingCaption, 2L
                        DropReason.MissingPicture, 1L
                        DropReason.DuplicateKey, 1L
                        DropReason.BadUtf8, 1L
                        DropReason.BadRecord, 1L
                    ]
                    "dropped")

            testProperty "a tar that is cut anywhere gives the pairs before the cut, and says so" (fun (where: uint16) ->
                let bytes =
                    tarBytes
                        [
                            for i in 0..4 do
                                yield! [ $"{i}.jpg", picture (string i); $"{i}.txt", utf8 (string i) ]
                        ]

                let all, _ = readTar bytes
                let cut = int where % (bytes.Length - 1024)
                let pairs, drops = readTar bytes[.. cut - 1]
                Expect.equal (summary pairs) (summary all |> List.truncate pairs.Length) "the first pairs"

                Expect.equal
                    (drops |> List.filter (fun (reason, _) -> reason = DropReason.TruncatedTar))
                    [ DropReason.TruncatedTar, 1L ]
                    "said once")

            damagedFilesAreRefused "a damaged tar ends nothing" ".tar" (fun () -> sample.Value) (fun path ->
                let pairs, _ = readAll path
                Expect.isLessThanOrEqual pairs.Length 9 "pairs")

            testCase "tables" (fun () ->
                inFolder (fun folder ->
                    let file (name: string) (bytes: byte[]) = File.WriteAllBytes(Path.Combine(folder, name), bytes)
                    Directory.CreateDirectory(Path.Combine(folder, "p")) |> ignore
                    file "p/1.png" (picture "1")
                    file "2.png" (picture "2")
                    file "3.png" (picture "3")

                    file
                        "captions.csv"
                        (Array.concat
                            [
                                utf8
                                    "id,File,text\r\n1,p/1.png,\"one, \"\"two\"\"\nthree\"\r\n2,2.png,plain\n\n3,absent.png,x\n4,2.png,again\n5,3.png,\n6\n7,3.png,"
                                [| 0xFFuy |]
                                utf8 "\n8,../outside.png,x\n9,3.png,\"no end"
                            ])

                    let pairs, drops = readAll folder

                    Expect.equal
                        (summary pairs)
                        [ "p/1.png", "picture 1", [ "one, \"two\"\nthree" ]; "2.png", "picture 2", [ "plain" ] ]
                        "pairs of csv"

                    Expect.equal
                        drops
                        [
                            DropReason.MissingCaption, 1L
                            DropReason.MissingPicture, 1L
                            DropReason.DuplicateKey, 1L
                            DropReason.BadUtf8, 1L
                            DropReason.BadRecord, 2L
                            DropReason.UnsafePath, 1L
                        ]
                        "dropped of csv"

                    File.Delete(Path.Combine(folder, "captions.csv"))
                    file "captions.tsv" (utf8 "caption\timage\n\"A dog\" it says\t2.png\n")

                    Expect.equal
                        (readAll folder |> fst |> summary)
                        [ "2.png", "picture 2", [ "\"A dog\" it says" ] ]
                        "pairs of tsv"

                    File.Delete(Path.Combine(folder, "captions.tsv"))

                    file
                        "captions.jsonl"
                        (Array.concat
                            [
                                utf8
                                    "{\"file\":\"2.png\",\"name\":\"n\",\"text\":\"t\"}\n{\"file\":\"3.png\",\"captions\":[\"x\",\"y\"]}\n\n{\"text\":\"t\"}\nnot json\n[1]\n{\"file\":\"p/1.png\",\"text\":\""
                                [| 0xC0uy |]
                                utf8 "\"}\n{\"file\":\"p/1.png\"}"
                            ])

                    let pairs, drops = readAll folder

                    Expect.equal
                        (summary pairs)
                        [ "2.png", "picture 2", [ "t" ]; "3.png", "picture 3", [ "x"; "y" ] ]
                        "pairs of jsonl"

                    Expect.equal
                        drops
                        [
                            DropReason.MissingCaption, 1L
                            DropReason.MissingPicture, 1L
                            DropReason.BadUtf8, 1L
                            DropReason.BadRecord, 2L
                        ]
                        "dropped of jsonl"))

            testCase "a folder of pictures with captions beside them" (fun () ->
                inFolder (fun folder ->
                    File.WriteAllBytes(Path.Combine(folder, "a.jpg"), picture "a")
                    File.WriteAllText(Path.Combine(folder, "a.txt"), "a dog")
                    File.WriteAllBytes(Path.Combine(folder, "b.jpg"), picture "b")
                    let pairs, drops = readAll folder
                    Expect.equal (summary pairs) [ "a", "picture a", [ "a dog" ] ] "pairs"
                    Expect.equal drops [ DropReason.MissingCaption, 1L ] "dropped"))

            testCase "what is no source" (fun () ->
                inFolder (fun folder ->
                    let path = Path.Combine(folder, "a.bin")
                    Expect.stringContains (refusal (fun () -> readAll path |> ignore)) "does not exist" "absent"
                    Expect.stringContains (refusal (fun () -> readAll folder |> ignore)) "no tar" "empty folder"
                    File.WriteAllText(path, "x")
                    Expect.stringContains (refusal (fun () -> readAll path |> ignore)) "neither" "another file"
                    File.WriteAllText(Path.Combine(folder, "captions.csv"), "a,b\n1,2\n")
                    Expect.stringContains (refusal (fun () -> readAll folder |> ignore)) "first line" "no columns"))

            testCase "real data goes through, pictures included" (fun () ->
                let check (relative: string) count =
                    let pairs, drops = readAll (Material.shared relative)
                    Expect.equal (pairs.Length, drops) (count, []) relative

                    for pair in pairs |> List.truncate 40 do
                        Pictures.Decode(ReadOnlyMemory(pair.Image.Read()), pair.Key) |> ignore

                    pairs

                check "data/nlvr" 1103 |> ignore
                check "data/cc12m" 32 |> ignore
                check "data/emoji" 1644 |> ignore
                let flickr = check "data/flickr8k" 800
                Expect.all flickr (fun pair -> pair.Captions.Count >= 1 && pair.Captions.Count <= 6) "captions"
                Expect.isTrue (flickr |> List.exists (fun pair -> pair.Captions.Count = 5)) "five captions")
        ]
