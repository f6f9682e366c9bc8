module safedlv/launcher

go 1.19
