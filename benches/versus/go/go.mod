module switchgrass/versus

go 1.19
