/// The public members of an assembly, each with the name that the compiler's XML documentation gives it and a signature to read.
module Hybrid.Tests.PublicMembers

open System
open System.Collections.Generic
open System.IO
open System.Reflection
open System.Runtime.CompilerServices
open System.Xml.Linq
open Microsoft.FSharp.Reflection

/// A public type or member.
type PublicMember =
    {
        /// The type that has it; a type itself
        Type: Type
        /// As the XML documentation names it: `M:Hybrid.Shape.show(System.Int64[])`
        Id: string
        /// A line to read: `Hybrid.Shape.show(int64[]) : string`
        Signature: string
    }

let private made (m: MemberInfo) = m.IsDefined(typeof<CompilerGeneratedAttribute>, false)

let private everywhere =
    BindingFlags.Public ||| BindingFlags.Instance ||| BindingFlags.Static ||| BindingFlags.DeclaredOnly

/// The types that others see, without those that F# makes for itself.
let types (assembly: Assembly) : Type list =
    let isCase (t: Type) =
        match t.DeclaringType with
        | null -> false
        | outer ->
            FSharpType.IsUnion outer
            && (t.Name = "Tags"
                || FSharpType.GetUnionCases outer |> Array.exists (fun case -> case.Name = t.Name || "_" + case.Name = t.Name))

    assembly.GetExportedTypes()
    |> Array.filter (fun t -> not (made t || isCase t))
    |> Array.sortBy _.FullName
    |> Array.toList

// ---- the names of the XML documentation ----

/// `Hybrid.Setting``1` of a type, with the types that contain it.
let rec private definition (t: Type) : string =
    match t.DeclaringType with
    | null ->
        match t.Namespace with
        | null -> t.Name
        | space -> space + "." + t.Name
    | outer -> definition outer + "." + t.Name

let rec private argument (t: Type) : string =
    if t.IsByRef || t.IsPointer || t.IsArray then
        let inner =
            match t.GetElementType() with
            | null -> ""
            | element -> argument element

        if t.IsByRef then
            inner + "@"
        elif t.IsPointer then
            inner + "*"
        elif t.GetArrayRank() = 1 then
            inner + "[]"
        // F# leaves one of the axes out.
        else
            inner + "[" + String.Join(",", Array.replicate (t.GetArrayRank() - 1) "0:") + "]"
    elif t.IsGenericParameter then
        (if isNull t.DeclaringMethod then "`" else "``") + string t.GenericParameterPosition
    elif t.IsGenericType then
        let name = definition (t.GetGenericTypeDefinition())
        let bare = Text.RegularExpressions.Regex.Replace(name, "`\\d+", "")
        bare + "{" + String.Join(",", t.GetGenericArguments() |> Array.map argument) + "}"
    else
        definition t

let private arguments (parameters: ParameterInfo[]) : string =
    if parameters.Length = 0 then
        ""
    else
        "(" + String.Join(",", parameters |> Array.map (fun p -> argument p.ParameterType)) + ")"

// ---- signatures to read ----

let private short =
    dict
        [
            typeof<bool>, "bool"
            typeof<byte>, "byte"
            typeof<int>, "int"
            typeof<int64>, "int64"
            typeof<float32>, "float32"
            typeof<float>, "float"
            typeof<string>, "string"
            typeof<unit>, "unit"
            typeof<Void>, "unit"
            typeof<obj>, "obj"
        ]

let private suffixes =
    dict [ typedefof<int option>, "option"; typedefof<int list>, "list"; typedefof<Set<int>>, "set" ]

/// A type as F# writes it, more or less: `Func<string, Tensor>`.
let rec show (t: Type) : string =
    match short.TryGetValue t with
    | true, name -> name
    | _ ->
        if t.IsByRef then
            "byref<" + element t + ">"
        elif t.IsPointer then
            "nativeptr<" + element t + ">"
        elif t.IsArray then
            element t + "[" + String(',', t.GetArrayRank() - 1) + "]"
        elif FSharpType.IsFunction t then
            let domain, range = FSharpType.GetFunctionElements t
            $"({show domain} -> {show range})"
        elif FSharpType.IsTuple t then
            let parts = String.Join(" * ", FSharpType.GetTupleElements t |> Array.map show)
            if t.IsValueType then $"struct ({parts})" else $"({parts})"
        elif t.IsGenericParameter then
            "'" + t.Name
        else
            let own = t.Name.Split('`')[0]

            let name =
                match t.DeclaringType with
                | null -> own
                | outer -> show outer + "." + own

            if t.IsGenericType && suffixes.ContainsKey(t.GetGenericTypeDefinition()) then
                show (t.GetGenericArguments()[0]) + " " + suffixes[t.GetGenericTypeDefinition()]
            elif t.IsGenericType then
                name + "<" + String.Join(", ", t.GetGenericArguments() |> Array.map show) + ">"
            else
                name

and private element (t: Type) : string =
    match t.GetElementType() with
    | null -> "?"
    | inner -> show inner

let private shownArguments (parameters: ParameterInfo[]) : string =
    String.Join(", ", parameters |> Array.map (fun p -> $"{p.Name}: {show p.ParameterType}"))

let private kindOf (t: Type) : string =
    if FSharpType.IsModule t then "module"
    elif FSharpType.IsRecord t then "record"
    elif FSharpType.IsUnion t then "union"
    elif t.IsInterface then "interface"
    elif t.IsEnum then "enum"
    elif t.IsValueType then "struct"
    elif t.IsAbstract && t.IsSealed then "static class"
    else "class"

// ---- members ----

/// Whether a method only fulfils what a base type or an interface asks for.
let private inherited (m: MethodInfo) = m.IsVirtual && m.GetBaseDefinition().DeclaringType <> m.DeclaringType

let private ofType (t: Type) : PublicMember list =
    let name = definition t
    let isUnion, isRecord = FSharpType.IsUnion t, FSharpType.IsRecord t
    let cases = if isUnion then FSharpType.GetUnionCases t else [||]
    let said (id: string) (signature: string) = { Type = t; Id = id; Signature = $"{name}{signature}" }

    let ofCase (case: UnionCaseInfo) =
        let fields = String.Join(" * ", case.GetFields() |> Array.map (fun f -> $"{f.Name}: {show f.PropertyType}"))
        said $"T:{name}.{case.Name}" (if fields = "" then $" | {case.Name}" else $" | {case.Name} of {fields}")

    let ofProperty (p: PropertyInfo) =
        let parameters = p.GetIndexParameters()
        let index = if parameters.Length = 0 then "" else "[" + shownArguments parameters + "]"
        let settable = not (isNull (p.GetSetMethod()))
        let ends = if settable then " with get, set" else ""
        said $"P:{name}.{p.Name}{arguments parameters}" $".{p.Name}{index} : {show p.PropertyType}{ends}"

    let ofMethod (m: MethodInfo) =
        let generic = if m.IsGenericMethod then $"``{m.GetGenericArguments().Length}" else ""

        let types =
            if m.IsGenericMethod then
                "<" + String.Join(", ", m.GetGenericArguments() |> Array.map show) + ">"
            else
                ""

        let parameters = m.GetParameters()

        said
            $"M:{name}.{m.Name}{generic}{arguments parameters}"
            $".{m.Name}{types}({shownArguments parameters}) : {show m.ReturnType}"

    let ofConstructor (c: ConstructorInfo) =
        said $"M:{name}.#ctor{arguments (c.GetParameters())}" $"({shownArguments (c.GetParameters())})"

    let isCaseMember (m: MemberInfo) =
        isUnion
        && (m.Name = "Tag"
            || m.Name = "Item"
            || cases
               |> Array.exists (fun case ->
                   m.Name = case.Name || m.Name = "New" + case.Name || m.Name = "Is" + case.Name || m.Name = "get_Is" + case.Name))

    [
        { Type = t; Id = $"T:{name}"; Signature = $"{kindOf t} {name}" }
        yield! cases |> Array.map ofCase

        for p in t.GetProperties everywhere do
            if not (isCaseMember p || made p && not isRecord) then
                ofProperty p

        for m in t.GetMethods everywhere do
            if not (m.IsSpecialName && not (m.Name.StartsWith "op_") || made m || inherited m || isCaseMember m) then
                ofMethod m

        for f in t.GetFields everywhere do
            if not (made f || f.IsSpecialName) && not isUnion then
                said $"F:{name}.{f.Name}" $".{f.Name} : {show f.FieldType}"

        if not (isUnion || isRecord) then
            for c in t.GetConstructors() do
                if c.GetParameters().Length > 0 && not (made c) then
                    ofConstructor c
    ]

/// Every public type and member of an assembly.
let ofAssembly (assembly: Assembly) : PublicMember list = types assembly |> List.collect ofType

/// The members' summaries in an XML file of documentation, by their names; the empty ones are left out.
let summaries (xml: string) : Set<string> =
    let said (element: XElement) =
        element.Elements(XName.Get "summary")
        |> Seq.exists (fun summary -> not (String.IsNullOrWhiteSpace summary.Value))

    (XDocument.Load xml).Descendants(XName.Get "member")
    |> Seq.filter said
    |> Seq.choose (fun element ->
        match element.Attribute(XName.Get "name") with
        | null -> None
        | name -> Some name.Value)
    |> Set.ofSeq
