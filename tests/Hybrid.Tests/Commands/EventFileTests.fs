/// Event files for TensorBoard, read back by hand from the documented format.
module Hybrid.Tests.EventFileTests

open System
open System.IO
open System.Text
open System.Text.Json
open System.Text.Json.Nodes
open System.Threading
open Expecto
open Hybrid
open Hybrid.Runner
open Hybrid.Runner.Runs
open Hybrid.Tests.Generate
open Hybrid.Tests.Running
open Hybrid.Tests.RunSupport

// ---- a reader ----

/// CRC-32C bit by bit.
let private crc (bytes: byte[]) : uint32 =
    let mutable sum = UInt32.MaxValue

    for value in bytes do
        sum <- sum ^^^ uint32 value

        for _ in 1..8 do
            sum <- if sum &&& 1u = 1u then (sum >>> 1) ^^^ 0x82F63B78u else sum >>> 1

    ~~~sum

let private masked (bytes: byte[]) : uint32 =
    let sum = crc bytes
    ((sum >>> 15) ||| (sum <<< 17)) + 0xA282EAD8u

/// The events of a file, as bytes; every length and checksum must be right.
let private records (path: string) : byte[] list =
    let bytes = File.ReadAllBytes path

    let rec read (at: int) =
        if at = bytes.Length then
            []
        else
            let length = int (BitConverter.ToUInt64(bytes, at))
            Expect.equal (BitConverter.ToUInt32(bytes, at + 8)) (masked bytes[at .. at + 7]) "the length's checksum"
            let data = bytes[at + 12 .. at + 11 + length]
            Expect.equal (BitConverter.ToUInt32(bytes, at + 12 + length)) (masked data) "the checksum"
            data :: read (at + 16 + length)

    read 0

/// The fields of a protocol buffer: numbers, and the bytes that each has.
let private fields (bytes: byte[]) : (int * byte[]) list =
    let rec number (at: int) (shift: int) (sum: uint64) =
        let value = uint64 bytes[at]
        let sum = sum ||| ((value &&& 0x7FUL) <<< shift)
        if value < 0x80UL then sum, at + 1 else number (at + 1) (shift + 7) sum

    let rec read (at: int) =
        if at = bytes.Length then
            []
        else
            let key, at = number at 0 0UL

            let content, next =
                match key &&& 7UL with
                | 0UL ->
                    let value, next = number at 0 0UL
                    BitConverter.GetBytes value, next
                | 1UL -> bytes[at .. at + 7], at + 8
                | 5UL -> bytes[at .. at + 3], at + 4
                | _ ->
                    let length, at = number at 0 0UL
                    bytes[at .. at + int length - 1], at + int length

            (int (key >>> 3), content) :: read next

    read 0

let private field (wanted: int) (all: (int * byte[]) list) = all |> List.find (fun (number, _) -> number = wanted) |> snd

type private Event = { Time: float; Step: int64; Values: (string * float32) list }

/// The events of the one event file in a folder, after the one that names the version.
let private events (folder: string) : Event list =
    let path =
        match Directory.GetFiles(folder, "*tfevents*") with
        | [| only |] -> only
        | files -> failtest $"not one event file but {files}"

    Expect.stringStarts (Path.GetFileName path |> nonNull) "events.out.tfevents." "the name"

    match records path |> List.map fields with
    | [] -> failtest "an empty event file"
    | first :: rest ->
        Expect.equal (Encoding.UTF8.GetString(field 3 first)) "brain.Event:2" "the version"

        [
            for event in rest do
                {
                    Time = BitConverter.ToDouble(field 1 event)
                    Step = BitConverter.ToInt64(field 2 event)
                    Values =
                        [
                            for _, value in fields (field 5 event) do
                                let value = fields value
                                Encoding.UTF8.GetString(field 1 value), BitConverter.ToSingle(field 2 value)
                        ]
                }
        ]

// ---- what must stand there ----

/// The numbers of a line under the names that they have in event files.
let private numbers (heldOut: bool) (line: string) : int64 * Set<string * float32> =
    let rec flat (name: string) (node: JsonNode | null) =
        [
            match node with
            | :? JsonObject as object ->
                for inner in object do
                    yield! flat (name + "/" + inner.Key) inner.Value
            | null -> ()
            | node ->
                match node.GetValueKind() with
                | JsonValueKind.Number -> name, node.GetValue<float>() |> float32
                | JsonValueKind.True -> name, 1f
                | JsonValueKind.False -> name, 0f
                | _ -> ()
        ]

    let root = (JsonNode.Parse line |> nonNull).AsObject()

    let name (key: string) =
        match heldOut, key with
        | true, key -> "heldOut/" + key
        | false, "loss" -> "loss/total"
        | false, ("text" | "image" | "structure") -> "loss/" + key
        | false, key -> key

    (root["step"] |> nonNull).GetValue<int64>(),
    Set
        [
            for pair in root do
                if pair.Key <> "step" && pair.Key <> "time" then
                    yield! flat (name pair.Key) pair.Value
        ]

let private linesOf (path: string) = if File.Exists path then List.ofArray (File.ReadAllLines path) else []

/// That a folder's event file holds what a run's metrics and evaluations hold, each line once and in the order of steps.
let private agrees (run: string) (folder: string) =
    let wanted =
        [
            yield! linesOf (Path.Combine(run, "evaluations.jsonl")) |> List.map (numbers true)
            yield! linesOf (Path.Combine(run, "metrics.jsonl")) |> List.map (numbers false)
        ]
        |> List.sortBy fst

    let found = events folder
    Expect.equal (found |> List.map _.Step) (found |> List.map _.Step |> List.sort) "steps do not go back"
    Expect.equal [ for event in found -> event.Step, Set event.Values ] wanted "the events"
    found

let private step (number: int) (loss: float) : JsonObject =
    let json = JsonObject()
    json.Add("step", JsonValue.Create number)
    json.Add("loss", JsonValue.Create loss)
    json.Add("image", null)
    json.Add("skipped", JsonValue.Create false)
    json

let tests =
    testList
        "EventFile"
        [
            testCase "the checksum is CRC-32C" (fun () ->
                Expect.equal (crc (Encoding.ASCII.GetBytes "123456789")) 0xE3069283u "the published value")

            testCase "a run that goes back and goes on has each step once" (fun () ->
                use folder = new Folder()
                let root = folder.At "run"
                let configuration = "{}"

                using (RunDirectory.New root) (fun run ->
                    run.TensorBoard <- true
                    run.Begin(configuration, 0)

                    for i in 0..9 do
                        run.Add(step i (float i))

                    run.Add(5, dict [ "loss", box (dict [ "total", box 1.25 ]) ] |> Collections.Generic.Dictionary)
                    run.GoBack 6 |> ignore
                    run.Flush()
                    agrees root root |> ignore

                    for i in 6..8 do
                        run.Add(step i (100.0 + float i)))

                let found = agrees root root
                let now = DateTimeOffset.UtcNow.ToUnixTimeMilliseconds()

                for event in found do
                    Expect.isLessThan (abs (event.Time - float now / 1e3)) 600.0 "the time of the event"

                // Nobody asks for events any more, but those that are there must not contradict the metrics.
                using (RunDirectory.Existing root) (fun run ->
                    run.Begin(configuration, 7)

                    for i in 7..11 do
                        run.Add(step i (1000.0 + float i)))

                let found = agrees root root
                Expect.equal (found |> List.filter (fun event -> event.Step = 8L) |> List.length) 1 "step 8 once")

            testCase "a run without --tensorboard has none, and one that is resumed with it has all steps" (fun () ->
                use folder = new Folder()
                let root = folder.At "run"

                using (RunDirectory.New root) (fun run ->
                    run.Begin("{}", 0)
                    run.Add(step 0 1.0)
                    run.Add(step 1 2.0))

                Expect.isFalse (EventFile.In root) "none"

                using (RunDirectory.Existing root) (fun run ->
                    run.TensorBoard <- true
                    run.Begin("{}", 2)
                    run.Add(step 2 3.0))

                Expect.hasLength (agrees root root) 3 "all steps")

            testCase "TensorFlow's own description of an event reads the same" (fun () ->
                use folder = new Folder()
                let root = folder.At "."
                File.WriteAllLines(folder.At "metrics.jsonl", [ for i in 0..300 -> (step i (float i / 7.0)).ToJsonString() ])
                EventFile root |> ignore
                let path = Directory.GetFiles(root, "*tfevents*") |> Array.exactlyOne
                let read = records path |> List.map Tensorboard.Event.Parser.ParseFrom
                Expect.equal read.Head.FileVersion "brain.Event:2" "the version"

                for event, own in List.zip read.Tail (events root) do
                    Expect.equal (event.WallTime, event.Step) (own.Time, own.Step) "time and step"
                    Expect.equal [ for value in event.Summary.Value -> value.Tag, value.SimpleValue ] own.Values "values")

            property1 "lines come through whatever their numbers are, and broken lines are left out" (0, 20) (fun seed count ->
                use folder = new Folder()
                let chooser = Chooser seed

                let lines =
                    [
                        for i in 0 .. count - 1 do
                            let value = chooser.Float(-1.0, 1.0) * Math.Pow(10.0, chooser.Float(-30.0, 30.0))
                            let json = JsonObject()
                            json.Add("step", JsonValue.Create(int64 i * 1_000_000_007L))
                            json.Add("ü", JsonValue.Create value)
                            json.ToJsonString()
                    ]

                let broken = [ "{"; "[]"; "{\"step\": -1, \"a\": 1}"; "{\"step\": \"1\"}"; ""; "{\"step\": 3, \"a\": nul" ]

                File.WriteAllLines(folder.At "metrics.jsonl", lines @ broken)
                EventFile(folder.At ".") |> ignore
                File.WriteAllLines(folder.At "metrics.jsonl", lines)
                agrees (folder.At ".") (folder.At ".") |> ignore)

            testCase "what a run holds in memory does not grow" (fun () ->
                use folder = new Folder()
                let file = EventFile(folder.At ".")
                let line = (step 1 1.0).ToJsonString()

                let add count =
                    for _ in 1..count do
                        file.Add line

                    file.File.Flush()

                add 1_000
                let before = GC.GetTotalMemory true
                add 20_000
                Expect.isLessThan (GC.GetTotalMemory true - before) 8_000_000L "bytes"
                Expect.hasLength (events (folder.At ".")) 21_000 "all are written")

            testCase "train --tensorboard and report --tensorboard write what metrics.jsonl holds" (fun () ->
                use folder = new Folder()
                let config = prepare folder ""
                let out = folder.At "run"
                use progress = Progress.On(TextWriter.Null, TimeProvider.System)
                TrainJob.Run(plan config, out, null, CancellationToken.None, progress, true) |> ignore
                let found = agrees out out

                Expect.exists
                    found
                    (fun event -> List.exists (fun (tag, _) -> tag = "heldOut/loss/image") event.Values)
                    "held out"

                Expect.exists found (fun event -> List.exists (fun (tag, _) -> tag = "memoryBytes") event.Values) "memory"
                let events = folder.At "events"

                let code, _, errors = program [ "report"; out; "--out"; folder.At "report.html"; "--tensorboard"; events ]

                Expect.equal code 0 errors
                let again = agrees out (Path.Combine(events, "run"))
                Expect.sequenceEqual (again |> List.map _.Values) (found |> List.map _.Values) "the same")
        ]
