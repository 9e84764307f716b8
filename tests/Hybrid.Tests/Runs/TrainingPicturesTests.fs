/// The pictures that an image tokenizer learns from: where they come from, which are held out, and how they are cut.
module Hybrid.Tests.TrainingPicturesTests

open System
open System.Formats.Tar
open System.IO
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Formats
open Hybrid.Tests.ImageTrainSupport

let tests =
    let names (path: string) =
        [
            for source in PictureSource.Open path do
                let drops = DropCounts()

                for struct (name, bytes) in source.Read drops do
                    string (Path.GetFileName name), bytes.Length
        ]

    testList
        "TrainingPictures"
        [
            testCase "come from folders, the folders below, tars among them, tables and single files, without captions" (fun () ->
                use folder = new Folder()
                Directory.CreateDirectory(folder.At "all/below/deeper") |> ignore
                File.WriteAllBytes(folder.At "all/b.png", png 1)
                File.WriteAllBytes(folder.At "all/below/deeper/a.v2.PNG", png 2)
                folder.Write("all/notes.txt", "no picture") |> ignore

                (use tar = new TarWriter(File.Create(folder.At "all/some.tar"))

                 for name, bytes in [ "x.png", png 3; "x.txt", "a caption"B; "y/z.png", png 4 ] do
                     tar.WriteEntry(PaxTarEntry(TarEntryType.RegularFile, name, DataStream = new MemoryStream(bytes))))

                let size index = (png index).Length
                let expected = [ "x.png", size 3; "z.png", size 4; "b.png", size 1; "a.v2.PNG", size 2 ]
                Expect.equal (names (folder.At "all")) expected "a folder"
                Expect.equal (names (folder.At "all/some.tar")) (List.take 2 expected) "a tar"
                Expect.equal (names (folder.At "all/b.png")) [ "b.png", size 1 ] "a file"

                let lines =
                    folder.Write(
                        "all/table.jsonl",
                        "{\"file\": \"b.png\"}\n{\"file\": \"below/deeper/a.v2.PNG\", \"caption\": \"a\"}\n"
                    )

                Expect.equal (names lines) [ "b.png", size 1; "a.v2.PNG", size 2 ] "lines"

                Expect.equal
                    (names (folder.Write("all/table.csv", "id,file\n1,b.png\n")))
                    [ "b.png", size 1 ]
                    "a table without captions")

            testCase "that are there twice are on one side, and the seed decides which are held out" (fun () ->
                use folder = new Folder()
                let pictures = scenes folder 20
                Directory.CreateDirectory(folder.At "pictures/twice") |> ignore

                for i in 0..19 do
                    File.WriteAllBytes(folder.At $"pictures/twice/{i}.png", png i)

                let split seed =
                    let settings = [ "data.heldOutShare", "0.25"; "data.heldOutMost", "7"; "seed", string seed ]
                    let plan = ImageTrainJob.ReadPlan(command [ pictures ] (folder.At "run") settings)
                    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
                    use set = PictureSet.Read(plan, folder.At "cache", progress, CancellationToken.None)
                    let text (pixels: byte[]) = Convert.ToHexString pixels

                    let seen =
                        [
                            for step in 0..15 do
                                for picture in set.Batch step -> text picture
                        ]
                        |> List.distinct

                    set.Count, [ for picture in set.HeldOut -> text picture ], seen

                let count, held, seen = split 1L
                Expect.equal held.Length 7 "no more than the most"
                Expect.equal count 32 "four pictures are held out with their doubles"
                Expect.equal (List.distinct held).Length 4 "in pairs, but for the last"
                Expect.equal seen.Length 16 "an epoch shows all the others"
                Expect.isEmpty (Set.intersect (set held) (set seen)) "no held-out picture is trained on"
                Expect.equal (split 1L) (count, held, seen) "the same again"
                let _, others, _ = split 2L
                Expect.notEqual others held "another seed")

            testCase "are cut as prepare cuts them, or at random from the whole" (fun () ->
                use folder = new Folder()
                Directory.CreateDirectory(folder.At "wide") |> ignore

                for i in 0..3 do
                    let row =
                        Pictures.Grid(
                            [| for j in 0..4 -> Picture(64, 64, snd (World.pair 11L Split.Train (int64 (5 * i + j)))) |],
                            5,
                            0
                        )

                    File.WriteAllBytes(folder.At $"wide/{i}.png", Pictures.EncodePng row)

                let batch settings =
                    let settings = settings @ [ "data.heldOutShare", "0"; "batch.pictures", "40" ]
                    let plan = ImageTrainJob.ReadPlan(command [ folder.At "wide" ] (folder.At "run") settings)
                    use progress = Progress.On(TextWriter.Null, TimeProvider.System)
                    use set = PictureSet.Read(plan, folder.At "cache", progress, CancellationToken.None)
                    Expect.isEmpty set.HeldOut "none held out"
                    set.Batch 0 |> Array.map Convert.ToHexString |> Array.distinct

                let middle =
                    [
                        for i in 0..3 ->
                            Pictures.CentreCropResize(Pictures.Read(folder.At $"wide/{i}.png"), 32).Pixels |> Convert.ToHexString
                    ]

                Expect.equal (Set.ofArray (batch [])) (Set.ofList middle) "the central squares"
                Expect.isGreaterThan (batch [ "data.crop", "random" ]).Length 30 "other squares each time"
                Expect.equal (batch [ "data.flip", "true" ]).Length 8 "and mirrored")
        ]
