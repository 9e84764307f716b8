/// The C# door (Hybrid.Api): nothing of F#'s own shows through it, nor through what can be reached from it.
module Hybrid.Tests.DoorTests

open System
open System.Collections.Generic
open System.Reflection
open System.Runtime.CompilerServices
open Expecto
open Microsoft.FSharp.Reflection
open Hybrid
open Hybrid.Api

let private core: Assembly = typeof<Model>.Assembly

let private declared =
    BindingFlags.Public ||| BindingFlags.Instance ||| BindingFlags.Static ||| BindingFlags.DeclaredOnly

// ---- what may be reached and has an F# shape, and where the door has it instead ----

/// Types that C# passes on as they are, and the door's type that makes or reads them. Nothing is looked at behind these.
let private opaque: (Type * Type) list =
    [
        typeof<TrainConfig>, typeof<TrainPlan>
        typeof<ImageTrainConfig>, typeof<ImageTrainPlan>
        typeof<ParameterStore>, typeof<Model>
        typeof<ScalingWork>, typeof<Scalings>
        typeof<Objective>, typeof<Losses>
        typeof<OptimizerConfig>, typeof<OptimizerOptions>
        // Packed rows are between the decoder and its attention.
        typeof<PackedRows>, typeof<Compose>
        // Made by its static members, `NewLinearScaling` and the like, or with a description.
        typeof<RotaryScaling>, typeof<ModelOptions>
        // Made by the name of a measure.
        typeof<ArmMeasure>, typeof<Studies>
        // Made by its JSON.
        typeof<MaterialPlan>, typeof<Studies>
    ]

/// Members of other types, and the door's member that gives the same.
let private instead: (string * string) list =
    [
        "ModelConfig.ExtendedAt", "ModelOptions.ExtendedAt"
        "ScalingStep.Traffic", "Scalings.Traffic"
        "Batch.Rows", "Compose.Batch"
        "Plan.Material", "Studies.Read"
    ]

// ---- looking ----

/// A type with all that it is made of: elements of arrays, arguments of generic types.
let rec private parts (t: Type) : Type list =
    match t.GetElementType() with
    | null when t.IsGenericType -> t.GetGenericTypeDefinition() :: (t.GetGenericArguments() |> Array.toList |> List.collect parts)
    | null -> [ t ]
    | element -> parts element

let private made (m: MemberInfo) = m.IsDefined(typeof<CompilerGeneratedAttribute>, false)

let private taken (parameters: ParameterInfo[]) = parameters |> Array.toList |> List.map _.ParameterType

/// The members of a type that C# sees, by name, with the types of their signatures. A record is made by its fields, and a union is looked
/// at as a whole.
let private members (t: Type) : (string * Type list) list =
    if FSharpType.IsUnion t then
        []
    else
        [
            for p in t.GetProperties declared do
                p.Name, p.PropertyType :: taken (p.GetIndexParameters())

            for m in t.GetMethods declared do
                if not (m.IsSpecialName || made m || m.IsVirtual && m.GetBaseDefinition().DeclaringType <> t) then
                    m.Name, m.ReturnType :: taken (m.GetParameters())

            for c in t.GetConstructors() do
                ".ctor", taken (c.GetParameters())
        ]

/// Why a type is not one of C#'s, where it is not.
let private shape (t: Type) : string option =
    let name = string t.FullName

    if name.StartsWith "System.Tuple" then
        Some "a tuple of F#"
    elif name.StartsWith "Microsoft.FSharp" && not (name.StartsWith "Microsoft.FSharp.Core.CompilerServices") then
        Some $"F#'s {t.Name}"
    elif t.Assembly = core && t.Name.EndsWith("Module", StringComparison.Ordinal) then
        Some "a module with F#'s suffix"
    elif
        t.Assembly = core
        && FSharpType.IsUnion t
        && FSharpType.GetUnionCases t |> Array.exists (fun case -> case.GetFields().Length > 0)
    then
        Some "a union with data"
    else
        None

/// The door's types, and the core's types that its signatures lead to, with where each was met first.
let private reachable: IReadOnlyDictionary<Type, string> =
    let met, waiting = Dictionary<Type, string>(), Queue<Type>()

    let meet (from: string) (t: Type) =
        if
            t.Assembly = core
            && not t.IsGenericParameter
            && not (List.exists (fst >> (=) t) opaque)
            && met.TryAdd(t, from)
        then
            waiting.Enqueue t

    for t in PublicMembers.types core do
        if t.Namespace = "Hybrid.Api" then
            meet "the door" t

    while waiting.Count > 0 do
        let t = waiting.Dequeue()

        for name, types in members t do
            types |> List.collect parts |> List.iter (meet $"{t.Name}.{name}")

    met

let private isOpaque (t: Type) = List.exists (fst >> (=) t) opaque

let private foreign =
    testCase "nothing of F#'s own shows through the C# door" (fun () ->
        Expect.isGreaterThan reachable.Count 60 "types that were looked at"
        let excused = List.map fst instead

        let found =
            [
                for KeyValue(t, from) in reachable do
                    for name, types in members t do
                        let whole = $"{t.Name}.{name}"

                        // A record of the core is made by the door where one of its fields has another shape.
                        let ofRecord = name = ".ctor" && FSharpType.IsRecord t && t.Namespace <> "Hybrid.Api"

                        if not (List.contains whole excused || ofRecord) then
                            for part in List.collect parts types do
                                if not (isOpaque part) then
                                    match shape part with
                                    | Some words -> $"{t.FullName}.{name}: {words} (by {from})"
                                    | None -> ()
            ]

        let listed = String.Join("\n", found)

        if not found.IsEmpty then
            failtest
                $"give the door a member of C#'s shape, and name it in `instead`, or a type that reads it, in `opaque`:\n{listed}")

let private named =
    testCase "names behind the C# door are C#'s" (fun () ->
        let found =
            [
                for KeyValue(t, _) in reachable do
                    for name, _ in members t do
                        if Char.IsLower name[0] || name.Contains '|' then
                            $"{t.FullName}.{name}"
            ]

        Expect.isEmpty found "names that do not begin with a capital")

let private excuses =
    testCase "what the door has instead is there, and still needed" (fun () ->
        let door = PublicMembers.types core |> List.filter (fun t -> t.Namespace = "Hybrid.Api")

        for excused, given in instead do
            let words = given.Split '.'
            let t = door |> List.tryFind (fun t -> t.Name = words[0])
            let there = t |> Option.map (fun t -> t.GetMember words[1]) |> Option.defaultValue [||]
            Expect.isNonEmpty there $"{given}, in the place of {excused}"

            let shaped =
                [
                    for KeyValue(t, _) in reachable do
                        for name, types in members t do
                            if $"{t.Name}.{name}" = excused then
                                yield! types |> List.collect parts |> List.choose shape
                ]

            Expect.isNonEmpty shaped $"{excused} has an F# shape"

        let behind =
            [
                for KeyValue(t, _) in reachable do
                    for _, types in members t do
                        yield! List.collect parts types
            ]
            |> HashSet

        for t, _ in opaque do
            Expect.isTrue (behind.Contains t) $"{t.Name} can be reached"

        for _, t in opaque do
            Expect.equal t.Namespace "Hybrid.Api" $"{t.Name} is the door's")

/// A record's fields and the keys that its options set, but for some.
let private keys (record: Type) (options: Type) (but: string list) : string list * string list =
    let fields = [ for field in FSharpType.GetRecordFields record -> field.Name ]

    let set =
        [
            for p in options.GetProperties declared do
                if p.CanWrite then
                    p.Name
        ]

    List.sort (List.except but fields), List.sort set

let private whole =
    testCase "what C# sets key by key has every key" (fun () ->
        let fields, set = keys typeof<ModelConfig> typeof<ModelOptions> []
        Expect.equal set fields "ModelOptions"
        // The name is what an arm is made with.
        let fields, set = keys typeof<ArmPlan> typeof<ArmOptions> [ "Name" ]
        Expect.equal set fields "ArmOptions")

let tests = testList "The C# door" [ foreign; named; excuses; whole ]
