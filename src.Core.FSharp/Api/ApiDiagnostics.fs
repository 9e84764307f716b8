/// The C# door: what can be measured of a model, of two models, and of image codes.
namespace Hybrid.Api

open System
open System.Collections.Generic
open TorchSharp
open Hybrid

/// Losses of sequences, and the same by where their targets stand. Two of them add: `a + b` is that of the sequences of both.
type DetailedLosses =
    {
        /// Of each sequence, in the order given
        Sequences: SequenceLoss[]
        /// By where a target stands in its caption or picture
        Places: LossPlaces
        /// What is predicted of the image codes
        Predicted: PredictedCodes
    }

    /// Sequences of `a`, then those of `b`; sums and counts add.
    static member (+)(a: DetailedLosses, b: DetailedLosses) : DetailedLosses =
        {
            Sequences = Array.append a.Sequences b.Sequences
            Places = a.Places + b.Places
            Predicted = a.Predicted + b.Predicted
        }

/// Diagnostics of a model. Nothing here changes it.
[<AbstractClass; Sealed>]
type Diagnosis private () =

    static let plan (gridHeight: int) (gridWidth: int) (captionEdges: int[]) : PlacePlan =
        { Grid = struct (gridHeight, gridWidth); CaptionEdges = captionEdges }

    /// The lengths at which each bucket of captions but the first begins, so that about as many captions of the sequences fall into each
    /// of `buckets`.
    static member CaptionEdges(vocabulary: Vocabulary, sequences: IEnumerable<int64[]>, buckets: int) : int[] =
        sequences
        |> Seq.collect (LossByPlace.captionLengths vocabulary)
        |> Seq.toArray
        |> LossByPlace.quantileEdges buckets

    /// The codes of the longest picture of some sequences; 0 where there is none.
    static member LongestPicture(vocabulary: Vocabulary, sequences: IEnumerable<int64[]>) : int =
        LossByPlace.longestPicture vocabulary sequences

    /// Losses of each sequence (of one length), by place, and what is predicted of the image codes, in one pass, in batches of `batch`.
    /// The grid of the pictures' codes is (0, 0) where it is not known; `captionEdges` are those of `CaptionEdges`, or any that grow.
    /// Errors: InputException for ids outside the table or a picture of more codes than the grid has.
    static member Losses
        (model: Model, sequences: IReadOnlyList<int64[]>, gridHeight: int, gridWidth: int, captionEdges: int[], batch: int)
        : DetailedLosses =
        let plan = plan gridHeight gridWidth captionEdges
        let mutable places = LossByPlace.empty plan
        let none = Array.zeroCreate<int64> model.Vocabulary.ImageCodes

        let mutable predicted =
            { Count = 0L; Correct = 0L; Targets = none; Argmax = none; Probability = Array.map float none }

        let visit sequences batch scored within =
            places <- places + LossByPlace.ofValues plan model.Vocabulary sequences batch scored.CrossEntropy within
            predicted <- predicted + CodeUse.predicted scored

        let losses = model.LossesBy(visit, sequences, batch)
        { Sequences = losses; Places = places; Predicted = predicted }

    /// Losses by place alone, with captions in four buckets of about as many.
    static member Places
        (model: Model, sequences: IReadOnlyList<int64[]>, gridHeight: int, gridWidth: int, batch: int)
        : LossPlaces =
        let edges = Diagnosis.CaptionEdges(model.Vocabulary, sequences, 4)
        Diagnosis.Losses(model, sequences, gridHeight, gridWidth, edges, batch).Places

    /// The use of `count` codes in code sequences: data or generated pictures. Errors: InputException for a code outside.
    static member Codes(sequences: IEnumerable<int[]>, count: int) : CodeUse = CodeUse.counts count sequences |> CodeUse.ofCounts

    /// How often each of `count` codes occurs. Errors: InputException for a code outside.
    static member CodeCounts(sequences: IEnumerable<int[]>, count: int) : int64[] = CodeUse.counts count sequences

    /// The use that counts, or sums of probabilities, of each code give.
    static member CodesOf(weights: float[]) : CodeUse = CodeUse.ofShares weights

    /// Kullback-Leibler divergence of p from q in bits, from counts or shares of each code; infinite where q lacks a code of p.
    static member KullbackLeibler(p: float[], q: float[]) : float = CodeUse.kullbackLeibler p q

    /// Jensen-Shannon divergence in bits, between 0 and 1, from counts or shares of each code.
    static member JensenShannon(p: float[], q: float[]) : float = CodeUse.jensenShannon p q

    /// The gradients of the mean text loss (the first) and the mean image loss (the second) over sequences of one length, `batch` of
    /// them at a time, with respect to all parameters of the model.
    static member GradientCosine(model: Model, sequences: IReadOnlyList<int64[]>, batch: int) : GradientCosines =
        GradientCosine.between model.Config model.Vocabulary model.Store batch Kind.Text Kind.Image (Seq.toArray sequences)

    /// `GradientCosine` in batches of 8 sequences.
    static member GradientCosine(model: Model, sequences: IReadOnlyList<int64[]>) : GradientCosines =
        Diagnosis.GradientCosine(model, sequences, 8)

    /// How far a model's fp32 weights are from a start, which is given by open_lm's names; each tensor is released when it is compared.
    /// The start's tables may have fewer rows: those of before an extension. Errors: ShapeException for a start of another shape.
    static member WeightDistance(model: Model, start: Func<string, torch.Tensor>) : WeightChanges =
        WeightDistance.between model.Vocabulary (Decoder.parameters model.Config) start.Invoke model.Values

    /// What attention looks at from where image codes are predicted, a mean over all of the sequences. A few are enough. The grid is
    /// (0, 0) where it is not known. Errors: InputException for ids outside the table or a picture of more codes than the grid has.
    static member AttentionToText
        (model: Model, sequences: IReadOnlyList<int64[]>, gridHeight: int, gridWidth: int)
        : AttentionMasses =
        AttentionMass.toText
            model.Config
            model.Vocabulary
            model.Store.Weights
            (struct (gridHeight, gridWidth))
            (Seq.toArray sequences)

    /// `AttentionToText` where the grid is not known.
    static member AttentionToText(model: Model, sequences: IReadOnlyList<int64[]>) : AttentionMasses =
        Diagnosis.AttentionToText(model, sequences, 0, 0)
