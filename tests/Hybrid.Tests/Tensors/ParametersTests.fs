module Hybrid.Tests.ParametersTests

open System
open Expecto
open Hybrid
open Hybrid.Tests.Generate
open TorchSharp

/// Specs of random shapes and starts.
let private drawnSpecs (chooser: Chooser) : ParameterSpec list =
    [
        for i in 0 .. chooser.Int(1, 7) ->
            {
                Name = $"p{i}.weight"
                Shape = [ for _ in 0 .. chooser.Int(0, 1) -> int64 (chooser.Int(1, 6)) ]
                Init = chooser.Of [ TruncatedNormal 0.5; Uniform 0.25; Ones; Zeros ]
            }
    ]

let private drawnMovement (chooser: Chooser) (specs: ParameterSpec list) : ParameterSpec -> Movement =
    let chosen =
        Map.ofList
            [
                for spec in specs do
                    let row = int64 (chooser.Int(0, int spec.Shape.Head))
                    spec.Name, chooser.Of [ Stays; Moves; MovesFromRow row ]
            ]

    fun spec -> chosen[spec.Name]

let tests =
    testList
        "Parameters"
        [
            property "views and flat memory are the same memory" (fun seed ->
                let chooser = Chooser seed
                let specs = drawnSpecs chooser
                use store = storeWith Fp32 Parameters.Matrices (drawnMovement chooser specs) specs seed
                Expect.equal (Parameters.count store) (specs |> List.sumBy _.Count) "count"

                for slot in store.Slots do
                    Expect.equal (slot.Offset % 64L) 0L "each on a border of 64 elements"

                let last = List.last store.Slots
                Expect.isLessThan (store.Length - last.Offset - last.Spec.Count) 64L "no more than the last border asks for"

                for spec in specs do
                    use _ = torch.no_grad ()
                    let slot = store.Slots |> List.find (fun slot -> slot.Spec = spec)
                    use master = store.MasterOf spec.Name
                    Expect.equal (List.ofArray (store.Weights spec.Name).shape) spec.Shape "shape"
                    let value = chooser.Float(-9.0, 9.0)
                    master.fill_ (Scalars.Of(value)) |> ignore
                    use part = store.Master.narrow (0, slot.Offset, spec.Count)
                    Expect.all (values part) (fun v -> v = float (float32 value)) "written through to flat memory"
                    Expect.all (values (store.Weights spec.Name)) (fun v -> v = float (float32 value)) "and to the weights"
                    part.zero_ () |> ignore
                    Expect.all (values master) (fun v -> v = 0.0) "and back")

            property "gradients land in flat memory, added up, as autograd gives them" (fun seed ->
                let chooser = Chooser seed
                let specs = drawnSpecs chooser
                let movement = drawnMovement chooser specs
                use store = storeWith Fp32 Parameters.Matrices movement specs seed

                let loss (weights: Weights) =
                    specs
                    |> List.mapi (fun i spec ->
                        (weights spec.Name).sin().mul((weights spec.Name).mul(Scalars.Of(float i + 0.5)).exp()).sum())
                    |> List.reduce (fun a b -> a.plus b)

                if specs |> List.exists (fun spec -> movement spec <> Stays) then
                    (loss store.Weights).backward()
                    (loss store.Weights).backward()

                let separate =
                    dict
                        [
                            for spec in specs do
                                let leaf = (store.Weights spec.Name).detach().clone()
                                leaf.requires_grad <- true
                                spec.Name, leaf
                        ]

                (loss (lookup separate)).backward()

                for slot in store.Slots do
                    if slot.Movement <> Stays then
                        use flat = store.Gradient.narrow (0, slot.Offset - store.FirstMoving, slot.Spec.Count)

                        match separate[slot.Spec.Name].grad with
                        | null -> failtest "no gradient"
                        | own -> close 1e-6 1e-6 slot.Spec.Name (values own |> Array.map ((*) 2.0)) (values flat)
                    else
                        Expect.isFalse (store.Weights slot.Spec.Name).requires_grad "what stays needs no gradient")

            property "segments cover exactly what moves, once, with its decay" (fun seed ->
                let chooser = Chooser seed
                let specs = drawnSpecs chooser
                let movement = drawnMovement chooser specs
                let decay = chooser.Of [ Parameters.Matrices; Parameters.All ]
                use store = Parameters.allocate Fp32 torch.CPU decay movement specs
                // What each place of flat memory is: None where it stays, else whether it decays.
                let expected = Array.create (int store.Length) None

                for slot in store.Slots do
                    let decays = decay = Parameters.All || slot.Spec.Shape.Length >= 2
                    let row = slot.Spec.Count / slot.Spec.Shape.Head

                    let first =
                        match movement slot.Spec with
                        | Stays -> slot.Spec.Count
                        | Moves -> 0L
                        | MovesFromRow r -> r * row

                    for i in first .. slot.Spec.Count - 1L do
                        expected[int (slot.Offset + i)] <- Some decays

                let found = Array.create (int store.Length) None

                for segment in store.Segments do
                    Expect.isGreaterThan segment.Length 0L "a segment is not empty"

                    for i in segment.Start .. segment.Start + segment.Length - 1L do
                        Expect.isNone found[int i] "no overlap"
                        found[int i] <- Some segment.Decays

                // What only fills up to a border belongs to nobody and may stand in a segment.
                let owned = Array.create (int store.Length) false

                for slot in store.Slots do
                    Array.fill owned (int slot.Offset) (int slot.Spec.Count) true

                let ofSlots (places: bool option[]) = Array.map2 (fun own place -> if own then place else None) owned places
                Expect.equal (ofSlots found) expected "cover"
                Expect.equal (Parameters.moving store) (expected |> Array.filter _.IsSome |> Array.length |> int64) "count"
                let starts = store.Segments |> List.map _.Start
                Expect.equal starts (List.sort starts) "in order"

                match store.Segments with
                | first :: _ -> Expect.isGreaterThanOrEqual first.Start store.FirstMoving "the gradient covers them"
                | [] -> ())

            property "starting values depend on seed and name alone" (fun seed ->
                let chooser = Chooser seed
                let specs = drawnSpecs chooser
                let start = Random.ofSeed seed
                use one = Parameters.allocate Fp32 torch.CPU Parameters.Matrices (fun _ -> Moves) specs
                use other = Parameters.allocate Fp32 torch.CPU Parameters.All (drawnMovement chooser specs) (List.rev specs)
                Parameters.initialise start one
                Parameters.initialise start other

                for spec in specs do
                    let expected = Parameters.initialValues start spec |> Array.map float
                    Expect.equal (values (one.Weights spec.Name)) expected "in order"
                    Expect.equal (values (other.Weights spec.Name)) expected "in reverse, laid out otherwise")

            testCase "starting values have their distribution, over blocks too" (fun () ->
                let spec init = { Name = "w"; Shape = [ 3L; 50_000L ]; Init = init }
                let start = Random.ofSeed 3L
                let normal = Parameters.initialValues start (spec (TruncatedNormal 0.2)) |> Array.map float
                near 2e-3 0.0 "mean" 0.0 (Array.average normal)
                // The truncated distribution's own deviation: 0.98658 of the uncut one's.
                near 0.0 0.01 "deviation" (0.2 * 0.98658) (sqrt (Array.averageBy (fun v -> v * v) normal))
                Expect.isLessThan (normal |> Array.map abs |> Array.max) 0.600001 "cut"
                Expect.notEqual normal[0..99] normal[65536..65635] "blocks differ"
                let uniform = Parameters.initialValues start (spec (Uniform 0.5)) |> Array.map float
                Expect.all uniform (fun v -> v >= -0.5 && v <= 0.5) "uniform's range"
                near 4e-3 0.0 "uniform's mean" 0.0 (Array.average uniform)
                near 0.0 0.01 "uniform's deviation" (1.0 / sqrt 12.0) (sqrt (Array.averageBy (fun v -> v * v) uniform))
                Expect.all (Parameters.initialValues start (spec Ones)) ((=) 1.0f) "ones"
                Expect.all (Parameters.initialValues start (spec Zeros)) ((=) 0.0f) "zeros"
                let other = Parameters.initialValues start { spec (TruncatedNormal 0.2) with Name = "v" }
                Expect.notEqual (Array.map float other) normal "another name, other values")

            property "the bf16 copy is the master rounded" (fun seed ->
                let chooser = Chooser seed
                let specs = drawnSpecs chooser
                use store = storeWith Bf16 Parameters.Matrices (drawnMovement chooser specs) specs seed
                Expect.equal store.Compute.dtype torch.bfloat16 "type"
                Expect.equal (bits store.Compute) (bits (store.Master.``to`` torch.bfloat16)) "after initialisation"
                use one = torch.no_grad ()
                store.Master.mul_ (Scalars.Of(1.37)) |> ignore
                store.Refresh()
                Expect.equal (bits store.Compute) (bits (store.Master.``to`` torch.bfloat16)) "after a change"

                for slot in store.Slots do
                    use master = store.MasterOf slot.Spec.Name
                    let weights = store.Weights slot.Spec.Name
                    Expect.equal weights.dtype torch.bfloat16 "the model's type"
                    Expect.equal (bits weights) (bits (master.``to`` torch.bfloat16)) slot.Spec.Name)

            property "set takes any element type and refuses another shape" (fun seed ->
                let chooser = Chooser seed
                let specs = drawnSpecs chooser
                use store = storeWith Fp32 Parameters.Matrices (fun _ -> Moves) specs seed
                let spec = chooser.Of specs
                let given = normals chooser 1.0 (List.map int spec.Shape)

                for kind in [ torch.float32; torch.float64; torch.bfloat16 ] do
                    Parameters.set store spec.Name (given.``to`` kind)
                    let expected = given.``to``(kind).``to`` torch.float32
                    Expect.equal (bits (store.Weights spec.Name)) (bits expected) $"{kind}"

                misshapen "another shape" (fun () -> Parameters.set store spec.Name (given.unsqueeze 0L)))

            testCase "a name given twice, and an unknown one, are refused" (fun () ->
                let spec = { Name = "w"; Shape = [ 2L ]; Init = Ones }

                Expect.throwsT<ArgumentException>
                    (fun () -> Parameters.allocate Fp32 torch.CPU Parameters.All (fun _ -> Moves) [ spec; spec ] |> ignore)
                    "twice"

                use store = Parameters.allocate Fp32 torch.CPU Parameters.All (fun _ -> Moves) [ spec ]

                Expect.throwsT<System.Collections.Generic.KeyNotFoundException> (fun () -> store.Weights "v" |> ignore) "unknown")

            case "a store takes all its tensors with it" (fun () ->
                let chooser = Chooser 5L
                let specs = drawnSpecs chooser

                let make precision =
                    use store = storeWith precision Parameters.Matrices (fun _ -> Moves) specs 1L
                    store.Length |> ignore

                make Bf16
                let before = liveTensors ()

                for precision in [ Fp32; Bf16; Fp32 ] do
                    make precision

                Expect.equal (liveTensors ()) before "live tensors")
        ]
