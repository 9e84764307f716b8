module Hybrid.Tests.Main

open Expecto

[<EntryPoint>]
let main arguments =
    let all =
        testList
            "all"
            [
                CommandLineTests.tests
                ReportTests.tests
                ProgressTests.tests
                SafeTensorsTests.tests
                TorchFileTests.tests
                NpyTests.tests
                TokenizerTests.tests
                PictureTests.tests
                ShardTests.tests
                PairSourceTests.tests
                HostTests.tests
                GoldenTests.tests
            ]

    runTestsWithCLIArgs [] arguments all
