module Hybrid.Tests.VocabularyTests

open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// The kind of an id, said without the layout's own names.
let private expected (v: Vocabulary) (id: int64) : Kind =
    let text, codes = int64 v.TextRows, int64 v.ImageCodes

    if id < 0L then Kind.Ignored
    elif id < text then Kind.Text
    elif codes = 0L then Kind.Ignored
    elif id < text + 6L then Kind.Structure
    elif id = text + 6L then Kind.Ignored
    elif id < text + 7L + codes then Kind.Image
    else Kind.Ignored

let tests =
    testList
        "Vocabulary"
        [
            testCase "the layout is the paper's" (fun () ->
                let v = { TextRows = 50432; ImageCodes = 16384 }
                Expect.equal v.Rows 66823 "rows"
                Expect.equal [ v.Doc; v.EndDoc; v.Text; v.EndText; v.Image; v.EndImage; v.Pad ] [ 50432..50438 ] "marks"
                Expect.equal v.FirstCode 50439 "the first code"
                Expect.equal Vocabulary.marks.Length 7 "names of marks")

            property2 "every id has its kind, as a function and as a tensor" (1, 30) (0, 20) (fun _ text codes ->
                let v = { TextRows = text; ImageCodes = codes }
                let tested = [| -3L .. int64 (text + 7 + codes) + 3L |]
                let kinds = tested |> Array.map (Vocabulary.kind v)
                Expect.equal kinds (Array.map (expected v) tested) "kinds by the function"
                let tensor = Vocabulary.kinds v (Host.int64s [ int64 tested.Length ] tested)
                Expect.equal (ids tensor) (kinds |> Array.map (fun k -> int64 (int k))) "kinds by the tensor")

            property2 "kinds keep the shape of the ids" (1, 4) (1, 9) (fun seed b t ->
                let v = vocabulary (Chooser seed)
                let ids = torch.zeros ([| int64 b; int64 t |], dtype = torch.int64)
                let kinds = Vocabulary.kinds v ids
                Expect.equal kinds.shape [| int64 b; int64 t |] "shape"
                Expect.equal kinds.dtype torch.int64 "type"
                Expect.isFalse (ids.ne(Scalars.Of(0)).any().item<bool>()) "the ids are left alone")

            property2 "the columns of a kind are exactly its ids" (1, 30) (0, 20) (fun _ text codes ->
                let v = { TextRows = text; ImageCodes = codes }

                for kind in [ Kind.Text; Kind.Structure; Kind.Image ] do
                    let struct (first, count) = Vocabulary.columns v kind
                    let own = [ 0L .. int64 v.Rows - 1L ] |> List.filter (fun id -> expected v id = kind)
                    Expect.equal [ first .. first + count - 1L ] own $"{kind}")

            property "check passes what is in the table and names what is not" (fun seed ->
                let chooser = Chooser seed
                let v = vocabulary chooser
                let good = chooser.Ints(12, v.Rows) |> Array.map int64
                Vocabulary.check v "here" good
                let place = chooser.Int(0, 11)
                let bad = chooser.Of [ -1L; int64 v.Rows; System.Int64.MaxValue; System.Int64.MinValue ]
                let message = refused "a bad id" (fun () -> Vocabulary.check v "here" (Array.updateAt place bad good))
                Expect.stringContains message $"here: token {bad} at position {place} " "the id and its place")
        ]
