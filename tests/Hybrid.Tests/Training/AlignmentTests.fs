module Hybrid.Tests.AlignmentTests

open System
open System.IO
open System.Text.Json
open Expecto
open Hybrid
open Hybrid.Alignment
open Hybrid.Api
open Hybrid.Tests.Generate
open TorchSharp

let private optimizer: OptimizerConfig =
    {
        Betas = (0.9, 0.98)
        Epsilon = 1e-6
        WeightDecay = 0.0
        Decay = Parameters.Matrices
        ClipNorm = None
    }

/// The values after the header of a .npy file of version 1, with its shape; enough for the files that this test knows.
let private npy (path: string) : int64 list * byte[] =
    let bytes = File.ReadAllBytes path
    let header = int (BitConverter.ToUInt16(bytes, 8))
    let text = Text.Encoding.ASCII.GetString(bytes, 10, header)
    let shape = text[text.IndexOf '(' + 1 .. text.IndexOf ')' - 1]
    let axes = shape.Split(',', StringSplitOptions.TrimEntries ||| StringSplitOptions.RemoveEmptyEntries)
    List.map int64 (List.ofArray axes), bytes[10 + header ..]

let private floatsOf (path: string) : torch.Tensor =
    let shape, bytes = npy path
    let values = Array.zeroCreate<float32>(bytes.Length / 4)
    Buffer.BlockCopy(bytes, 0, values, 0, bytes.Length)
    Host.floats shape values

let private intsOf (path: string) : int[][] =
    let shape, bytes = npy path
    let values = Array.zeroCreate<int64>(bytes.Length / 8)
    Buffer.BlockCopy(bytes, 0, values, 0, bytes.Length)
    values |> Array.map int |> Array.chunkBySize (int shape[1])

let private alignmentStore (codes: int) (width: int) (seed: int64) =
    let store =
        Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) (parameters (int64 codes) (int64 width))

    Parameters.initialise (Random.ofSeed seed) store
    initialiseScale store
    store

let private unit (x: float[]) =
    let length = sqrt (Array.sumBy (fun v -> v * v) x)
    x |> Array.map (fun v -> v / length)

let tests =
    testList
        "Alignment"
        [
            property2 "a bag of words is the direction of its mean embedding" (1, 6) (1, 9) (fun seed bags d ->
                let chooser = Chooser seed
                let rows = chooser.Int(1, 12)
                let table = normals chooser 1.0 [ rows; d ]
                let bags = Array.init bags (fun _ -> chooser.Ints(chooser.Int(1, 8), rows))
                let found = bagOfWords table bags
                Expect.equal found.shape [| int64 bags.Length; int64 d |] "shape"
                let table = values table |> Array.chunkBySize d

                let expected =
                    bags
                    |> Array.collect (fun bag ->
                        unit (Array.init d (fun i -> bag |> Array.averageBy (fun token -> table[token][i]))))

                close 2e-5 2e-5 "directions" expected (values found))

            property1 "bags that are empty or hold unknown tokens are refused" (1, 5) (fun seed rows ->
                let table = normals (Chooser seed) 1.0 [ rows; 3 ]
                let message = refused "an empty bag" (fun () -> bagOfWords table [| [| 0 |]; [||] |] |> ignore)
                Expect.stringContains message "pair 1" "which"

                for bad in [ -1; rows ] do
                    let message = refused "an unknown token" (fun () -> bagOfWords table [| [| 0 |]; [| 0; bad |] |] |> ignore)
                    Expect.stringContains message $"token {bad} of pair 1" "which")

            property2 "the contrast is CLIP's formula" (1, 6) (1, 6) (fun seed n d ->
                let chooser = Chooser seed
                let pictures, texts = normals chooser 1.0 [ n; d ], normals chooser 1.0 [ n; d ]
                let scale = chooser.Float(0.0, 3.0)
                let value = contrast (torch.tensor (float32 scale)) pictures texts
                let u, v = values pictures |> Array.chunkBySize d, values texts |> Array.chunkBySize d
                let logits = [| for a in u -> [| for b in v -> Math.Exp(float (float32 scale)) * Reference.dot a b |] |]

                let crossEntropy (rows: float[][]) =
                    rows |> Array.mapi (fun i r -> Reference.logSumExp r - r[i]) |> Array.average

                let expected = (crossEntropy logits + crossEntropy (Array.transpose logits)) / 2.0
                near 1e-4 1e-4 "loss" expected (values value.Loss |> Array.head)
                let right = logits |> Array.mapi (fun i r -> if Array.max r = r[i] then 1.0 else 0.0) |> Array.average
                near 1e-6 0.0 "accuracy" right (values value.Accuracy |> Array.head))

            testCase "the log scale starts at ln(1/0.07) and ends at ln 100" (fun () ->
                near 1e-12 0.0 "start" 2.659260036932778 initialLogScale
                near 1e-12 0.0 "largest" 4.605170185988092 largestLogScale
                use store = alignmentStore 4 3 1L
                near 1e-6 0.0 "in the store" initialLogScale (values (store.Weights "log_scale") |> Array.head))

            property "the log scale stays within its bounds, whatever the rate" (fun seed ->
                let chooser = Chooser seed
                let rows, n = 5, 3
                use store = alignmentStore rows 4 seed
                use state = new OptimizerState(store)
                let texts = bagOfWords (normals chooser 1.0 [ 6; 4 ]) (Array.init n (fun i -> [| i; i + 1 |]))
                let codes = Array.init n (fun _ -> chooser.Ints(3, rows))
                let mutable seen = []

                for _ in 1..5 do
                    let value = step id optimizer 3.0 store state texts codes
                    value.Loss.Dispose()
                    value.Accuracy.Dispose()
                    let scale = values (store.Weights "log_scale") |> Array.head
                    seen <- scale :: seen
                    Expect.isTrue (scale >= 0.0 && scale <= largestLogScale + 1e-6) $"{scale}"

                Expect.isTrue
                    (seen |> List.exists (fun s -> s = 0.0 || abs (s - largestLogScale) < 1e-6))
                    $"such steps reach a bound: %A{seen}")

            property "a step moves only rows whose codes were seen" (fun seed ->
                let chooser = Chooser seed
                use store = alignmentStore 8 4 seed
                use state = new OptimizerState(store)
                let before = bits (store.Weights "image_embeddings") |> Array.chunkBySize 4
                let texts = bagOfWords (normals chooser 1.0 [ 6; 4 ]) [| [| 0 |]; [| 3 |]; [| 5 |] |]
                let value = step id optimizer 0.01 store state texts [| [| 0; 1; 1 |]; [| 2 |]; [| 6; 0 |] |]
                value.Loss.Dispose()
                value.Accuracy.Dispose()
                let after = bits (store.Weights "image_embeddings") |> Array.chunkBySize 4

                for row in 0..7 do
                    let seen = List.contains row [ 0; 1; 2; 6 ]
                    Expect.equal (after[row] <> before[row]) seen $"row {row}")

            property3 "nearest finds the text rows of largest cosine, in order" (1, 5) (1, 12) (1, 6) (fun seed images texts d ->
                let chooser = Chooser seed
                let i, t = normals chooser 1.0 [ images; d ], normals chooser 1.0 [ texts; d ]
                let count = chooser.Int(1, texts)
                let found, cosines = nearest count i t
                Expect.equal found.shape [| int64 images; int64 count |] "shape"
                Expect.equal cosines.shape found.shape "shape of cosines"
                let t = values t |> Array.chunkBySize d |> Array.map unit
                let found, cosines = Array.chunkBySize count (ids found), Array.chunkBySize count (values cosines)

                values i
                |> Array.chunkBySize d
                |> Array.iteri (fun row x ->
                    let all = t |> Array.map (Reference.dot (unit x))
                    close 1e-5 1e-5 "largest" (Array.sortDescending all |> Array.truncate count) cosines[row]
                    close 1e-5 1e-5 "of these rows" (found[row] |> Array.map (fun id -> all[int id])) cosines[row]
                    Expect.equal (Array.distinct found[row]).Length count "each once"))

            property1 "the loss of pairs that are all alike is ln N, and each finds its own with chance 1/N" (2, 9) (fun seed n ->
                let chooser = Chooser seed
                let row () = bagOfWords (normals chooser 1.0 [ 3; 4 ]) [| [| chooser.Int(0, 2) |] |]
                let same (row: torch.Tensor) = row.expand(int64 n, 4L).contiguous()
                let pictures, texts = same (row ()), same (row ())
                let value = contrast (torch.tensor (float32 (chooser.Float(0.0, 4.0)))) pictures texts
                near 1e-5 1e-5 "loss" (Math.Log(float n)) (values value.Loss |> Array.head)

                // Whole numbers, whose products are exact.
                let alike = torch.ones (int64 n, 4L)

                for rank in ranks alike alike do
                    Expect.equal (rank.Nearer, rank.AsNear) (0L, int64 n) "nothing is nearer"
                    near 1e-9 0.0 "by chance" (1.0 / float n) (found 1 rank)
                    near 1e-9 0.0 "among five" (min 1.0 (5.0 / float n)) (found 5 rank))

            property2 "the order of pairs changes the loss by rounding only" (2, 8) (1, 6) (fun seed n d ->
                let chooser = Chooser seed
                let table, texts = normals chooser 1.0 [ 9; d ], normals chooser 1.0 [ 7; d ]
                let codes = Array.init n (fun _ -> chooser.Ints(chooser.Int(1, 6), 9))
                let captions = Array.init n (fun _ -> chooser.Ints(chooser.Int(1, 4), 7))
                let order = Array.init n (fun i -> int (Random.permuted (int64 n) (Random.ofSeed seed) (int64 i)))

                let loss (order: int[]) =
                    let bags table (all: int[][]) = bagOfWords table (order |> Array.map (fun i -> all[i]))
                    values (contrast (torch.tensor 2.0f) (bags table codes) (bags texts captions)).Loss |> Array.head

                near 1e-5 1e-5 "loss" (loss [| 0 .. n - 1 |]) (loss order))

            property2 "gradients are those of finite differences" (2, 4) (1, 3) (fun seed n d ->
                let chooser = Chooser seed
                let rows, width = 5, d + 1
                let double (t: torch.Tensor) = t.``to`` torch.float64
                let texts = bagOfWords (double (normals chooser 1.0 [ 6; width ])) (Array.init n (fun i -> [| i; i + 1; i |]))
                let codes = Array.init n (fun _ -> chooser.Ints(chooser.Int(1, 5), rows))
                let start = (double (normals chooser 1.0 [ rows; width ])).data<float>().ToArray()

                let loss (table: float[]) (scale: float) =
                    let table = torch.tensor(table, dtype = torch.float64).reshape(int64 rows, int64 width)
                    let scale = torch.tensor (scale, dtype = torch.float64)
                    table.requires_grad <- true
                    scale.requires_grad <- true
                    (contrast scale (bagOfWords table codes) texts).Loss, table, scale

                let value table scale =
                    let loss, _, _ = loss table scale
                    loss.detach().data<float>().[0L]

                let gradient (t: torch.Tensor) : float[] =
                    match t.grad with
                    | null -> failtest "no gradient"
                    | grad -> grad.data<float>().ToArray()

                let step, scale = 1e-5, 1.3
                let own, table, logScale = loss start scale
                own.backward ()
                let moved place by = Array.mapi (fun i v -> if i = place then v + by else v) start

                let expected =
                    Array.init start.Length (fun i -> (value (moved i step) scale - value (moved i -step) scale) / (2.0 * step))

                close 1e-6 1e-5 "of the table" expected (gradient table)

                near
                    1e-6
                    1e-5
                    "of the log scale"
                    ((value start (scale + step) - value start (scale - step)) / (2.0 * step))
                    (gradient logScale).[0])

            property2 "two processes that gather have the gradient of one" (1, 4) (1, 4) (fun seed n d ->
                let chooser = Chooser seed
                let rows = 6
                let start = normals chooser 1.0 [ rows; d ]
                let texts = bagOfWords (normals chooser 1.0 [ 5; d ]) (Array.init (2 * n) (fun _ -> chooser.Ints(2, 5)))
                let codes = Array.init (2 * n) (fun _ -> chooser.Ints(3, rows))

                let gradient (gather: Gather) (codes: int[][]) =
                    let table = start.clone ()
                    table.requires_grad <- true
                    (contrast (torch.tensor 2.0f) (gather (bagOfWords table codes)) texts).Loss.backward()

                    match table.grad with
                    | null -> failtest "no gradient"
                    | grad -> values grad

                let part rank =
                    let others = bagOfWords start (Array.sub codes ((1 - rank) * n) n)

                    let gather (own: torch.Tensor) = torch.cat ((if rank = 0 then [| own; others |] else [| others; own |]), 0L)

                    gradient gather (Array.sub codes (rank * n) n)

                close 1e-5 1e-4 "the parts add up" (gradient id codes) (Array.map2 (+) (part 0) (part 1)))

            property "steps keep as many tensors as they began with, and the text table to the bit" (fun seed ->
                let chooser = Chooser seed
                let texts, images = normals chooser 1.0 [ 6; 4 ], normals chooser 1.0 [ 8; 4 ]
                let before = bits texts
                use aligner = new Aligner(texts, images, AlignerOptions(LearningRate = 0.1))

                let step () = aligner.Step(Array.init 3 (fun i -> [| i; i + 1 |]), Array.init 3 (fun _ -> chooser.Ints(4, 8)))

                step ()
                let alive = liveTensors ()

                // More than wait on the device at a time.
                for _ in 1..300 do
                    step ()

                Expect.equal (liveTensors ()) alive "live tensors"
                let steps = aligner.Read()
                Expect.equal steps.Length 301 "a value for each step"
                Expect.isTrue (steps |> Array.forall (fun s -> s.Temperature >= 1.0 && s.Temperature < 100.001)) "the clamp"
                Expect.isEmpty (aligner.Read()) "each is read once"
                Expect.equal (liveTensors ()) alive "live tensors after reading"
                Expect.equal (bits texts) before "the text table")

            property2 "nearest of some codes among some rows" (1, 4) (1, 9) (fun seed images texts ->
                let chooser = Chooser seed
                let t = normals chooser 1.0 [ texts; 3 ]
                use aligner = new Aligner(t, normals chooser 1.0 [ images; 3 ], AlignerOptions())
                let among = Array.distinct (chooser.Ints(4, texts))
                let codes = [| for _ in 1..2 -> chooser.Int(0, images - 1) |]
                let all = aligner.NearestTo(codes, texts, null)
                let some = aligner.NearestTo(codes, texts, among)

                for own, part in Array.zip all some do
                    let expected = own |> Array.filter (fun n -> Array.contains n.Id among)
                    close 1e-5 1e-5 "the same cosines" (expected |> Array.map _.Cosine) (part |> Array.map _.Cosine)
                    Expect.equal (part |> Array.map _.Id |> Array.sort) (Array.sort among) "of these rows")

            property "what always goes together is associated, what never does is not" (fun seed ->
                let chooser = Chooser seed
                let a, b = float (chooser.Int(1, 40)), float (chooser.Int(1, 40))
                near 1e-9 1e-9 "as often as by chance" 0.0 (association (a * b / 100.0) a b 100.0)
                Expect.isGreaterThan (association (min a b) a b 100.0) 0.0 "together whenever it can be"
                Expect.isLessThan (association 0.0 a b 100.0) 0.0 "never together"
                near 1e-9 1e-9 "two halves that are one: 2 n ln 2" (200.0 * Math.Log 2.0) (association 50.0 50.0 50.0 100.0))

            property1 "random text rows have no direction in common" (200, 400) (fun seed rows ->
                let table = randomTexts (Random.ofSeed seed) 0.5 rows 8
                let mean = values (table.mean [| 0L |]) |> Array.sumBy (fun v -> v * v) |> sqrt
                Expect.isLessThan mean 0.3 "their mean"
                Expect.equal (bits table) (bits (randomTexts (Random.ofSeed seed) 0.5 rows 8)) "the same seed, the same rows")

            case "sixty steps are those of another implementation" (fun () ->
                let folder = Material.shared "golden/align_a"
                let file name = Path.Combine(folder, name)
                use expected = JsonDocument.Parse(File.ReadAllText(file "expected.json"))
                use texts = JsonDocument.Parse(File.ReadAllText(file "text_ids.json"))

                let captions =
                    [|
                        for caption in texts.RootElement.EnumerateArray() ->
                            [| for id in caption.EnumerateArray() -> id.GetInt32() |]
                    |]

                let codes = intsOf (file "image_codes.npy")
                let table = floatsOf (file "text_embedding.npy")
                let initial = floatsOf (file "image_embedding_init.npy")
                let batch = expected.RootElement.GetProperty("batch").GetInt32()
                use store = alignmentStore (int initial.shape[0]) (int initial.shape[1]) 0L
                Parameters.set store "image_embeddings" initial
                use state = new OptimizerState(store)
                let bags = bagOfWords table captions
                let trajectory = expected.RootElement.GetProperty("trajectory")
                Expect.equal (trajectory.GetArrayLength()) 60 "steps"

                trajectory.EnumerateArray()
                |> Seq.iteri (fun i wanted ->
                    use scope = torch.NewDisposeScope()
                    let own = Array.init batch (fun j -> (i * batch + j) % codes.Length)
                    let texts = bags.index_select (0L, Host.int64s [ int64 batch ] (Array.map int64 own))
                    let value = step id optimizer 0.01 store state texts (own |> Array.map (fun j -> codes[j]))
                    let number (name: string) = wanted.GetProperty(name).GetDouble()
                    near 1e-3 1e-3 $"loss at {i}" (number "loss") (values value.Loss |> Array.head)
                    near 1e-6 0.0 $"accuracy at {i}" (number "accuracy") (values value.Accuracy |> Array.head)
                    let temperature = Math.Exp(values (store.Weights "log_scale") |> Array.head)
                    near 1e-3 1e-3 $"temperature after {i}" (number "temperature") temperature)

                let final = floatsOf (file "image_embedding_final.npy")
                closeAsVectors 1e-3 "the table at the end" (values final) (values (store.Weights "image_embeddings")))
        ]
