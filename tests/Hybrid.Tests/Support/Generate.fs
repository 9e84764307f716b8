/// What the property tests share. Properties generate a seed and sizes; tensors are built inside, from the seed.
module Hybrid.Tests.Generate

open System
open System.Collections.Generic
open Expecto
open FsCheck
open FsCheck.FSharp
open Hybrid
open TorchSharp

/// Cases of each property: HYBRID_PROPERTY_TESTS, or 25.
let depth: int =
    match Int32.TryParse(Environment.GetEnvironmentVariable "HYBRID_PROPERTY_TESTS") with
    | true, count when count > 0 -> count
    | _ -> 25

let private run (cases: int) (name: string) (ranges: (int * int) list) (check: int64 -> int list -> unit) : Test =
    let generator =
        gen {
            let! seed = Gen.choose (0, 1_000_000)
            let! sizes = Gen.sequenceToList [ for low, high in ranges -> Gen.choose (low, high) ]
            return seed, sizes
        }

    // A failing case shrinks towards the smallest sizes; the seed stays.
    let shrink (seed: int, sizes: int list) =
        seq {
            for i, (low, _) in List.indexed ranges do
                if sizes[i] > low then
                    for size in List.distinct [ low; (low + sizes[i]) / 2; sizes[i] - 1 ] do
                        seed, List.updateAt i size sizes
        }

    let body (seed: int, sizes: int list) =
        use scope = torch.NewDisposeScope()
        check (int64 seed) sizes

    testPropertyWithConfig
        { FsCheckConfig.defaultConfig with maxTest = cases }
        name
        (Prop.forAll (Arb.fromGenShrink (generator, shrink)) body)

/// A property of a seed.
let property (name: string) (check: int64 -> unit) : Test = run depth name [] (fun seed _ -> check seed)

/// A property of a seed and a size in a range.
let property1 (name: string) (range: int * int) (check: int64 -> int -> unit) : Test =
    run depth name [ range ] (fun seed sizes -> check seed sizes[0])

/// A property of a seed and two sizes, each in its range.
let property2 (name: string) (first: int * int) (second: int * int) (check: int64 -> int -> int -> unit) : Test =
    run depth name [ first; second ] (fun seed sizes -> check seed sizes[0] sizes[1])

/// A property of a seed and three sizes, each in its range.
let property3
    (name: string)
    (first: int * int)
    (second: int * int)
    (third: int * int)
    (check: int64 -> int -> int -> int -> unit)
    : Test =
    run depth name [ first; second; third ] (fun seed sizes -> check seed sizes[0] sizes[1] sizes[2])

/// A costly property, tried a fifth as often.
let costly (name: string) (check: int64 -> unit) : Test = run (max 1 (depth / 5)) name [] (fun seed _ -> check seed)

/// A case whose tensors are released at its end.
let case (name: string) (check: unit -> unit) : Test =
    testCase name (fun () ->
        use scope = torch.NewDisposeScope()
        check ())

/// Choices that depend on a seed alone: each call gives the next.
type Chooser(seed: int64) =
    let stream = Random.ofSeed seed |> Random.named "chooser"
    let mutable place = 0L

    /// An integer in [low, high].
    member _.Int(low: int, high: int) : int =
        place <- place + 1L
        low + Random.below (high - low + 1) stream place

    /// A number in [low, high).
    member _.Float(low: float, high: float) : float =
        place <- place + 1L
        low + (high - low) * Random.uniform stream place

    member c.Bool() : bool = c.Int(0, 1) = 1

    /// One of several.
    member c.Of(choices: 'a list) : 'a = choices[c.Int(0, choices.Length - 1)]

    /// Integers in [0, below).
    member c.Ints(count: int, below: int) : int[] = Array.init count (fun _ -> c.Int(0, below - 1))

    /// Standard normal numbers.
    member _.Normals(count: int) : float[] =
        Array.init count (fun _ ->
            place <- place + 1L
            Random.normal stream place)

/// Normal values as an fp32 tensor.
let normals (chooser: Chooser) (deviation: float) (shape: int list) : torch.Tensor =
    chooser.Normals(List.fold (*) 1 shape)
    |> Array.map (fun x -> float32 (deviation * x))
    |> Host.floats (List.map int64 shape)

/// A tensor's values, row by row, in double precision.
let values (tensor: torch.Tensor) : float[] =
    use wide = tensor.detach().``to``(torch.float64).cpu().contiguous()
    wide.data<float>().ToArray()

/// A tensor's ids.
let ids (tensor: torch.Tensor) : int64[] =
    use whole = tensor.detach().cpu().contiguous()
    whole.data<int64>().ToArray()

/// The bits of an fp32 or bf16 tensor: equal only when every value is the same to the last bit.
let bits (tensor: torch.Tensor) : int64[] =
    use same = tensor.detach().``to``(torch.float32).cpu().contiguous()
    same.data<float32>().ToArray() |> Array.map (fun x -> int64 (BitConverter.SingleToInt32Bits x))

/// Fails unless two lists of numbers are as long and differ by at most `absolute` + `relative` · |expected| each.
let close (absolute: float) (relative: float) (what: string) (expected: float[]) (actual: float[]) : unit =
    Expect.equal actual.Length expected.Length $"{what}: how many values"

    Array.iteri2
        (fun i (e: float) (a: float) ->
            if not (abs (a - e) <= absolute + relative * abs e) then
                failtest $"{what}: value {i} of {expected.Length} is {a:R}; expected {e:R}")
        expected
        actual

/// Fails unless two numbers are near.
let near (absolute: float) (relative: float) (what: string) (expected: float) (actual: float) : unit =
    close absolute relative what [| expected |] [| actual |]

/// Fails unless the relative distance of two vectors, ‖a − e‖ / ‖e‖, is at most `limit`.
let closeAsVectors (limit: float) (what: string) (expected: float[]) (actual: float[]) : unit =
    Expect.equal actual.Length expected.Length $"{what}: how many values"
    let norm (x: float[]) = sqrt (Array.sumBy (fun v -> v * v) x)
    let distance = norm (Array.map2 (-) actual expected)
    let scale = max 1e-30 (norm expected)

    if not (distance <= limit * scale) then
        failtest $"{what}: the relative distance is {distance / scale}; the limit is {limit}"

/// Fails unless the action raises InputException; gives its sentence.
let refused (what: string) (action: unit -> unit) : string =
    try
        action ()
        failtest $"{what}: nothing was refused"
    with :? InputException as e ->
        e.Message

/// Fails unless the action raises ShapeException.
let misshapen (what: string) (action: unit -> unit) : unit = Expect.throwsT<ShapeException> action what

/// A small layout.
let vocabulary (chooser: Chooser) : Vocabulary = { TextRows = chooser.Int(4, 20); ImageCodes = chooser.Int(2, 12) }

/// A tiny model of any kind over this many rows.
let config (chooser: Chooser) (rows: int) : ModelConfig =
    let keyValueHeads = chooser.Int(1, 2)
    let heads = keyValueHeads * chooser.Int(1, 3)
    let headWidth = 2 * chooser.Int(1, 3)
    let position = chooser.Of [ Rotary; InterleavedRotary; HeadRotary; NoPosition; LearnedPosition ]

    {
        Width = max heads (chooser.Int(3, 12))
        Layers = chooser.Int(1, 3)
        Heads = heads
        KeyValueHeads = keyValueHeads
        HeadWidth = headWidth
        FeedForwardWidth = chooser.Int(3, 17)
        Rows = rows
        ExtendedAt = []
        Positions = 64
        Norm = chooser.Of [ LayerNorm; GainLayerNorm; PlainLayerNorm; RmsNorm ]
        NormEpsilon = chooser.Of [ 1e-5; 1e-6; 1e-3 ]
        QkNorm = chooser.Bool()
        PostEmbedNorm = chooser.Bool()
        Position = position
        RotaryBase = chooser.Of [ 10000.0; 500.0 ]
        RotaryWidth = 2 * chooser.Int(1, headWidth / 2)
        RotaryScaling = chooser.Of [ NoScaling; LinearScaling 2.0 ]
        Window = chooser.Of [ 0; 0; 3; 100 ]
        FeedForward = chooser.Of [ SwiGlu; GeGlu; Gelu; GeluTanh; Relu ]
        ParallelResidual = chooser.Bool()
        QkvBias = chooser.Bool()
        OutBias = chooser.Bool()
        FeedForwardBias = chooser.Bool()
        Tied = chooser.Bool()
    }

/// A store whose every value is random, norms and biases too, so that no parameter's effect hides behind a 0 or a 1.
let storeWith
    (precision: Precision)
    (decay: Parameters.Decay)
    (movement: ParameterSpec -> Movement)
    (specs: ParameterSpec list)
    (seed: int64)
    : ParameterStore =
    let store = Parameters.allocate precision torch.CPU decay movement specs
    Parameters.initialise (Random.ofSeed seed) store

    for slot in store.Slots do
        if slot.Spec.Shape.Length < 2 then
            use scope = torch.NewDisposeScope()
            let chooser = Chooser(seed + int64 slot.Spec.Name.Length + slot.Offset)
            let around = if slot.Spec.Init = Ones then 1.0 else 0.0
            let noise = normals chooser 0.3 (slot.Spec.Shape |> List.map int)
            Parameters.set store slot.Spec.Name (noise.add (Scalars.Of(around)))

    store.Refresh()
    store

/// A store of a model that moves as a whole.
let store (precision: Precision) (config: ModelConfig) (seed: int64) : ParameterStore =
    storeWith precision Parameters.Matrices (fun _ -> Moves) (Decoder.parameters config) seed

/// A sequence of a random form, caption and picture.
let sequence (chooser: Chooser) (vocabulary: Vocabulary) (length: int) : int64[] =
    let caption = chooser.Ints(chooser.Int(0, 4), vocabulary.TextRows)
    let codes = chooser.Ints(chooser.Int(1, 4), vocabulary.ImageCodes)
    let form = chooser.Of [ Captioned; ImageOnly; TextOnly; CaptionDropped ]
    Sequence.compose vocabulary form length caption codes

/// A batch of random sequences of at least 14 positions.
let batch (chooser: Chooser) (vocabulary: Vocabulary) (count: int) (length: int) : Batch =
    Sequence.batch vocabulary torch.CPU (Array.init count (fun _ -> sequence chooser vocabulary length))

/// Tensors that are alive on this thread.
let liveTensors () : int64 = DisposeScopeManager.Statistics.ThreadTotalLiveCount

/// What a result must be: Ok.
let accepted (what: string) (result: Result<'a, string list>) : 'a =
    match result with
    | Ok value -> value
    | Error errors ->
        let listed = String.concat " " errors
        failtest $"{what} was refused: {listed}"

/// What a result must be: errors, each of these beginnings once, and no other.
let errorsAt (what: string) (places: string list) (result: Result<'a, string list>) : unit =
    match result with
    | Ok _ -> failtest $"{what} was accepted"
    | Error errors ->
        let found = errors |> List.map (fun e -> e[.. e.IndexOf(':') - 1]) |> List.sort
        Expect.equal found (List.sort places) $"{what}: the keys that the errors name"

/// A dictionary as a lookup of weights.
let lookup (tensors: IDictionary<string, torch.Tensor>) : Weights = fun name -> tensors[name]
