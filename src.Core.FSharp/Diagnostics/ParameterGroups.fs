/// Parameters by what they are for: what gradients and distances are summed up over.
namespace Hybrid

open System
open TorchSharp

/// Rows of a parameter that belong to one group.
type ParameterPiece =
    {
        /// Such as "embedding, text rows" or "layer 0 attention"
        Group: string
        /// The layer, counted from 0; −1 where it belongs to none
        Layer: int
        /// Its name
        Parameter: string
        /// The first of the rows, counted from 0
        FirstRow: int64
        /// How many there are
        Rows: int64
        /// Values of a row
        RowLength: int64
    }

    /// Numbers in all rows.
    member p.Count = p.Rows * p.RowLength

/// Inner products of a few vectors with each other.
[<NoEquality; NoComparison>]
type Gram =
    {
        /// The vectors' length
        Count: int64
        /// v_i · v_j
        Products: float[,]
    }

    /// The inner products of the joined vectors.
    static member (+)(a: Gram, b: Gram) : Gram =
        {
            Count = a.Count + b.Count
            Products = Array2D.mapi (fun i j x -> x + b.Products[i, j]) a.Products
        }

    /// ‖v_i‖.
    member g.Norm(i: int) : float = sqrt g.Products[i, i]

    /// The cosine between v_i and v_j, within [−1, 1]; nan where one of them is 0.
    member g.Cosine(i: int, j: int) : float =
        let lengths = g.Norm i * g.Norm j
        if lengths > 0.0 then Math.Clamp(g.Products[i, j] / lengths, -1.0, 1.0) else nan

/// Sorting parameters, and rows of tables, into groups by what they are for.
module ParameterGroups =

    /// The group of the norms, wherever they stand.
    let norms: string = "norms"

    /// The pieces that rows of the table are cut into by a vocabulary, in order: each name, its first row and how many it has.
    let private tableRows (vocabulary: Vocabulary) (rows: int64) : (string * int64 * int64) list =
        let text, first, ids = int64 vocabulary.TextRows, int64 vocabulary.FirstCode, int64 vocabulary.Rows

        [
            "text rows", 0L, text
            if vocabulary.ImageCodes > 0 then
                "marks", text, first - text
                "image rows", first, ids - first
            "padding rows", ids, rows - ids
        ]
        |> List.filter (fun (_, _, count) -> count > 0L)

    /// The pieces of a parameter, which together are the whole of it: rows of the two tables by the kind of their ids, each layer's
    /// attention and feed-forward layer, all norms, learned positions.
    let pieces (vocabulary: Vocabulary) (spec: ParameterSpec) : ParameterPiece list =
        let rows = spec.Shape.Head

        let piece (group: string) (layer: int) (first: int64) (count: int64) =
            {
                Group = group
                Layer = layer
                Parameter = spec.Name
                FirstRow = first
                Rows = count
                RowLength = spec.Count / rows
            }

        let table (name: string) =
            [ for part, first, count in tableRows vocabulary rows -> piece $"{name}, {part}" -1 first count ]

        match spec.Name.Split '.' with
        | [| "tok_embeddings"; _ |] -> table "embedding"
        | [| "output"; _ |] -> table "head"
        | [| "pos_embeddings"; _ |] -> [ piece "positions" -1 0L rows ]
        | parts when parts[0] = "layers" ->
            let layer = int parts[1]

            let group =
                if spec.Name.Contains "norm." then norms
                elif parts[2] = "attention" then $"layer {layer} attention"
                else $"layer {layer} feed-forward"

            [ piece group layer 0L rows ]
        | _ -> [ piece norms -1 0L rows ]

    // In double precision this many values at a time: the copies stay small.
    let private atOnce = 1L <<< 20

    /// Inner products of k vectors of `count` values with each other in double precision, [k, k] fp64, which the caller owns. `part`
    /// gives some values of each, from a place on, of any element type.
    let gram (count: int64) (part: int64 -> int64 -> torch.Tensor list) : torch.Tensor =
        use _ = torch.no_grad ()
        use scope = torch.NewDisposeScope()

        let products (start: int64) =
            use _ = torch.NewDisposeScope()
            let some = part start (min atOnce (count - start))
            let vectors = torch.stack [| for vector in some -> vector.``to`` torch.float64 |]
            vectors.mm(vectors.t ()).MoveToOuterDisposeScope()

        let mutable sum = products 0L

        for start in atOnce..atOnce .. count - 1L do
            use next = products start
            sum.plus_ next |> ignore

        sum.MoveToOuterDisposeScope()

    /// A piece's values in a flat tensor of the whole parameter, or of more, in which it begins at `offset`.
    let slice (flat: torch.Tensor) (offset: int64) (piece: ParameterPiece) : torch.Tensor =
        flat.narrow (0L, offset + piece.FirstRow * piece.RowLength, piece.Count)

    /// What `gram` gave, read at once: each with its count of values.
    let read (grams: (int64 * torch.Tensor) list) : Gram list =
        if grams.IsEmpty then
            []
        else
            use _ = torch.NewDisposeScope()
            let all = torch.stack [| for _, gram in grams -> gram |]
            let k = int all.shape[1]
            let values = all.cpu().contiguous().data<float>().ToArray()

            grams
            |> List.mapi (fun n (count, _) ->
                { Count = count; Products = Array2D.init k k (fun i j -> values[(n * k + i) * k + j]) })

    /// Where a group stands among the others: embedding, positions, layer by layer, norms, head.
    let private rank (piece: ParameterPiece) : int =
        if piece.Group = norms then Int32.MaxValue - 1
        elif piece.Parameter = "output.weight" then Int32.MaxValue
        else piece.Layer

    /// Inner products of vectors that stand behind each other. Errors: ArgumentException where there are none.
    let total (products: Gram list) : Gram = List.reduce (+) products

    /// Inner products summed up by group, from the embedding to the head: each with its layer, −1 where it has several.
    let sums (pieces: ParameterPiece list) (products: Gram list) : (string * int * Gram) list =
        List.zip pieces products
        |> List.groupBy (fun (piece, _) -> piece.Group)
        |> List.sortBy (fun (_, members) -> rank (fst members.Head))
        |> List.map (fun (group, members) ->
            match members |> List.map (fun (piece, _) -> piece.Layer) |> List.distinct with
            | [ layer ] -> group, layer, total (List.map snd members)
            | _ -> group, -1, total (List.map snd members))
