/// The arms of the experiment as data: who wants another one writes a record.
namespace Hybrid

/// How long something is trained.
type Budget =
    {
        /// Updates of the weights
        Steps: int
        /// Sequences (or pictures, or pairs) a step
        Batch: int
        /// The peak of the schedule
        LearningRate: float
        /// Steps over which the rate rises to its peak
        WarmupSteps: int
    }

/// Where an arm's weights start.
type Start =
    /// The pre-trained model, its tables grown
    | FromPretrained = 0
    /// Random weights of the same shape
    | FromRandom = 1
    /// Pre-trained, with the image rows of the embedding table from alignment
    | FromAligned = 2
    /// Pre-trained, with each image row of embedding table and head a copy of its code's word; for codes that stand for words
    | FromWords = 3

/// Which caption stands before a picture.
type CaptionKind =
    /// None: image tokens alone
    | None = 0
    /// The picture's own
    | Own = 1
    /// All captions that the picture has, one after the other
    | Long = 2

/// What a picture is written in.
type PictureCodes =
    /// The image tokenizer's codes
    | Learned = 0
    /// Codes that stand for words, in a grid (`WorldWords`); World alone has them
    | Words = 1
    /// Codes that stand for words, in sentences (`WorldWords.Told`); World alone has them
    | Told = 2

/// A training run of the study, for each of some seeds.
type ArmPlan =
    {
        /// Letters, digits and hyphens
        Name: string
        /// Where its weights start
        Start: Start
        /// What stands before its pictures
        Captions: CaptionKind
        /// What its pictures are written in
        Codes: PictureCodes
        /// A name of `Trainable.presets`
        Trainable: string
        /// Weights of the losses on text and image tokens
        TextWeight: float
        /// Of the loss on image tokens
        ImageWeight: float
        /// Share of each step's sequences that are text of the pre-training corpus
        Replay: float
        /// Share of the captioned sequences that lose their caption, as guidance needs it
        CaptionDrop: float
        /// How many of the study's seeds it is run for; 0: not at all
        Seeds: int
        /// Steps, or 0: the plan's for captioned or for image-only runs
        Steps: int
        /// Whether knowledge and in-context learning are probed along the way
        Probed: bool
        /// Whether gradients, distances, attention and losses by place are looked into, for the first seed
        Diagnosed: bool
        /// Whether pictures are drawn: for the report by the first seed, for the distance to real ones by each
        Sampled: bool
    }

/// One training run.
type Arm =
    {
        /// What is trained, and how
        Plan: ArmPlan
        /// Of the random weights, the order and the dropped captions
        Seed: int64
        /// Whether it is the first of its plan's seeds
        First: bool
    }

    /// The plan's name with the seed, which names folders: `captioned-random-seed0`.
    member arm.Name = $"{arm.Plan.Name}-seed{arm.Seed}"

/// The paper's arms, and those beyond it.
module StudyArms =

    /// The pre-trained twin, by whose side everything is measured.
    let pretrained: ArmPlan =
        {
            Name = "twin-pretrained"
            Start = Start.FromPretrained
            Captions = CaptionKind.Own
            Codes = PictureCodes.Learned
            Trainable = "all"
            TextWeight = 1.0
            ImageWeight = 1.0
            Replay = 0.0
            CaptionDrop = 0.0
            Seeds = 1
            Steps = 0
            Probed = true
            Diagnosed = false
            Sampled = false
        }

    /// The twin of an arm that starts from random weights.
    let randomTwin (name: string) (arm: ArmPlan) : ArmPlan = { arm with Name = name; Start = Start.FromRandom; Probed = false }

    /// The paper's four frozen configurations (Fig. 6).
    let frozen: string list = [ "embedding-head"; "+norms"; "+first-half"; "+ffn" ]

    /// The name of the arm of a frozen configuration.
    let frozenName (preset: string) : string = "image-" + preset.Replace("+", "plus-")

    /// Fig. 3, 4 and 7: the twins on captioned pictures, and the aligned start beside them.
    let twins (seeds: int) (aligned: int) : ArmPlan list =
        let pretrained = { pretrained with Seeds = seeds; Diagnosed = true; Sampled = true }

        [
            pretrained
            randomTwin "twin-random" pretrained
            { pretrained with
                Name = "twin-aligned"
                Start = Start.FromAligned
                Seeds = aligned
                Probed = false
                Diagnosed = false
            }
        ]

    /// Fig. 6: image tokens alone, fully tuned twins and the frozen configurations from the pre-trained model.
    let imageOnly (seeds: int) (frozenSeeds: int) : ArmPlan list =
        let tuned =
            { pretrained with
                Name = "image-pretrained"
                Captions = CaptionKind.None
                Seeds = seeds
                Probed = false
            }

        [
            tuned
            randomTwin "image-random" tuned
            for preset in frozen do
                { tuned with Name = frozenName preset; Trainable = preset; Seeds = frozenSeeds }
        ]

    /// Beyond the paper: its second explanation is that image tokens outnumber text tokens 30 : 1. Three ways to give text more: a weight
    /// that makes the two losses count the same in World, half of all sequences text of the pre-training corpus, longer captions;
    /// each with its random twin.
    let textRatio (seeds: int) : ArmPlan list =
        [
            for name, change in
                [
                    "weight", (fun arm -> { arm with TextWeight = 6.0 })
                    "replay", (fun arm -> { arm with Replay = 0.5 })
                    "long", (fun arm -> { arm with Captions = CaptionKind.Long })
                ] do
                let arm = change { pretrained with Name = name + "-pretrained"; Seeds = seeds }
                arm
                randomTwin (name + "-random") arm
        ]

    /// Beyond the paper: its first explanation is that image tokens have no meaning that text has. Codes that stand for words do, in a grid
    /// or in sentences; the twins of each, and for sentences a start that knows which word.
    let words (seeds: int) : ArmPlan list =
        let arm =
            { pretrained with
                Name = "words-pretrained"
                Codes = PictureCodes.Words
                Seeds = seeds
                Probed = false
                Sampled = true
            }

        let told = { arm with Name = "told-pretrained"; Codes = PictureCodes.Told; Sampled = false }

        [
            arm
            randomTwin "words-random" arm
            told
            randomTwin "told-random" told
            { told with Name = "told-tied"; Start = Start.FromWords }
        ]

    /// One arm that learned to do without captions now and then, so that guidance can be tried on it.
    let guided (seeds: int) : ArmPlan list =
        [
            { pretrained with
                Name = "guided"
                CaptionDrop = 0.1
                Seeds = min 1 seeds
                Probed = false
                Sampled = true
            }
        ]

    /// The arms with some put in the place of those with the same name, or after them.
    let replace (added: ArmPlan seq) (arms: ArmPlan list) : ArmPlan list =
        (arms, added)
        ||> Seq.fold (fun arms arm ->
            match arms |> List.tryFindIndex (fun known -> known.Name = arm.Name) with
            | Some place -> List.updateAt place arm arms
            | None -> arms @ [ arm ])

    /// The runs of some arms: every arm for its seeds, counted from `firstSeed`.
    let runs (firstSeed: int64) (arms: ArmPlan list) : Arm[] =
        [|
            for arm in arms do
                for i in 0 .. arm.Seeds - 1 do
                    { Plan = arm; Seed = firstSeed + int64 i; First = (i = 0) }
        |]
